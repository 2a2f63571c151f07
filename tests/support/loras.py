"""Random LoRA adapters for the tiny checkpoints, in the files that people download."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_LAYERS = ["q_proj", "v_proj"]
SCALE = 0.2  # of the random weights: enough to change an image, not so much that rounding does


def build_lora(checkpoint: Path, file: Path, *, seed: int, text: bool = True) -> Path:
    """Write an adapter of the UNet, and of the text encoder too, to the .safetensors `file`."""
    pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {"unet_lora_layers": _adapt(pipeline.unet, UNET_LAYERS)}
        if text:
            layers["text_encoder_lora_layers"] = _adapt(pipeline.text_encoder, TEXT_LAYERS)
        if text and hasattr(pipeline, "text_encoder_2"):
            layers["text_encoder_2_lora_layers"] = _adapt(pipeline.text_encoder_2, TEXT_LAYERS)
    is_sdxl = hasattr(pipeline, "text_encoder_2")
    saver = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
    saver.save_lora_weights(file.parent, weight_name=file.name, **layers)
    return file


def _adapt(network: torch.nn.Module, layers: list[str]) -> dict[str, torch.Tensor]:
    network.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False))  # type: ignore[operator]
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    return {name: SCALE * torch.randn_like(weight) for name, weight in state.items()}
