"""Tiny random-weight checkpoints in diffusers format, the same every time, for every family the engine serves."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from safetensors.torch import load_file, save_file

from training.pipelines import BETAS, UNET, UNET_V, make_pipeline, sd15_scheduler, sd21_scheduler
from training.tiny import make_text_encoder, make_unet, make_vae
from training.tokenizer import make_tokenizer

KINDS = ("sd15", "sd21", "sdxl", "sd15_sample", "lcm", "inpainting")


def build(kind: str, folder: Path) -> Path:
    """Write the checkpoint `kind` (one of KINDS; float32, 64 px, safetensors) to `folder` and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        pipeline = _sdxl() if kind == "sdxl" else _sd(kind)
    pipeline.save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")
    if kind == "sdxl":
        make_tokenizer(folder / "tokenizer_2", pad_token="!")
    return folder


def to_single_file(folder: Path, target: Path) -> Path:
    """Write the "sd15" checkpoint in `folder` as one file in the original (CompVis) layout to `target`."""
    weights: dict[str, torch.Tensor] = {}
    for part, rename in {"unet": _unet_key, "vae": _vae_key, "text_encoder": _text_key}.items():
        (file,) = (folder / part).glob("*.safetensors")
        weights |= {rename(name): weight for name, weight in load_file(file).items()}
    for name in [name for name in weights if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)]:
        weights[name] = weights[name][:, :, None, None]  # the original's VAE attends with 1x1 convolutions
    save_file(weights, target)
    return target


def _sd(kind: str) -> StableDiffusionImg2ImgPipeline:
    match kind:
        case "sd15":
            return make_pipeline(sd15_scheduler(), UNET)
        case "sd21":
            return make_pipeline(sd21_scheduler(), UNET_V, hidden_act="gelu")
        case "sd15_sample":
            return make_pipeline(sd15_scheduler(prediction_type="sample"), UNET)
        case "inpainting":
            return make_pipeline(sd15_scheduler(), UNET | {"in_channels": 9})
        case "lcm":
            unet = {"noise_gain": 0.8, "roughness": 1.2, "prompt_gain": 4.0, "time_cond_proj_dim": 32}
            return make_pipeline(LCMScheduler(**BETAS, steps_offset=1), UNET | unet)
    raise ValueError(f"unknown kind {kind!r}: one of {', '.join(KINDS)}")


def _sdxl() -> StableDiffusionXLImg2ImgPipeline:
    tokenizer = make_tokenizer()
    unet: dict[str, Any] = UNET | {
        "noise_gain": 1.0,
        "roughness": 0.25,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [4, 8],
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
        "cross_attention_dim": 64,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }
    return StableDiffusionXLImg2ImgPipeline(
        vae=make_vae(scaling_factor=0.13025, force_upcast=False),
        text_encoder=make_text_encoder(tokenizer),
        text_encoder_2=make_text_encoder(tokenizer, hidden_act="gelu", projection=True),
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(pad_token="!"),
        unet=make_unet(**unet),
        scheduler=EulerDiscreteScheduler(
            **BETAS, steps_offset=1, timestep_spacing="leading", interpolation_type="linear"
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    # two blocks of one layer down, two of two layers up
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}


def _unet_key(name: str) -> str:
    start = next(start for start in _UNET_ENDS if name.startswith(start + "."))
    rest = name.removeprefix(start + ".")
    if ".resnets." in start:
        layer, _, parameter = rest.partition(".")
        rest = f"{_RESNET[layer]}.{parameter}"
    return f"model.diffusion_model.{_UNET_ENDS[start]}.{rest}"


def _vae_key(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0", "mid.attn_1", name)
    name = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", name)
    for old, new in {
        "to_out.0": "proj_out",
        "group_norm": "norm",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
    }.items():
        name = name.replace(old, new)
    return "first_stage_model." + name


def _text_key(name: str) -> str:
    return "cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")


def with_overflowing_vae(checkpoint: Path, folder: Path) -> Path:
    """A copy of an SDXL checkpoint that says its VAE overflows in float16, as that of the first release does."""
    shutil.copytree(checkpoint, folder)
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"force_upcast": True}))
    return folder
