"""Converts a diffusers folder of SD1.5 or 2.1 to the layout of OpenVINO GenAI.

optimum-intel does this too, but not beside the transformers that this project runs with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from openvino_tokenizers import convert_tokenizer
from torch import Tensor, nn

CLASS = "StableDiffusionPipeline"  # the only name of the kind that it knows
Shape = list[int]


class _Unet(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class _Encoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Any:
        return self.vae.encode(sample, return_dict=False)[0].parameters


class _Decoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Any:
        return self.vae.decode(latent_sample, return_dict=False)[0]


class _Text(nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Any:
        output = self.encoder(input_ids)
        return output.last_hidden_state, output.pooler_output


def export(checkpoint: str, folder: Path) -> None:
    """Convert every network of `checkpoint` with dynamic batch and sizes, float16 on disk; model_index.json last.

    Raises ValueError for a VAE that OpenVINO GenAI does not know.
    """
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    if not hasattr(pipeline.vae, "quant_conv"):
        raise ValueError(f"OpenVINO GenAI needs an AutoencoderKL: the VAE of {checkpoint} is another")
    length, width = pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim
    latents = torch.randn(2, 4, 8, 8)
    unet = {"sample": latents, "timestep": torch.tensor([1]), "encoder_hidden_states": torch.randn(2, length, width)}
    ids = torch.zeros(2, length, dtype=torch.long)
    image = [-1, 3, -1, -1]
    _convert(_Unet(pipeline.unet), unet, [[-1, 4, -1, -1], [1], [-1, length, width]], folder / "unet")
    _convert(_Encoder(pipeline.vae), {"sample": torch.randn(1, 3, 64, 64)}, [image], folder / "vae_encoder")
    _convert(_Decoder(pipeline.vae), {"latent_sample": latents}, [[-1, 4, -1, -1]], folder / "vae_decoder")
    _convert(_Text(pipeline.text_encoder), {"input_ids": ids}, [[-1, length]], folder / "text_encoder")
    ov.save_model(convert_tokenizer(pipeline.tokenizer), folder / "tokenizer" / "openvino_tokenizer.xml")
    _copy_configs(Path(checkpoint), folder)


@torch.no_grad()
def _convert(module: nn.Module, example: dict[str, Tensor], shapes: list[Shape], folder: Path) -> None:
    model = ov.convert_model(module.eval(), example_input=example, input=[ov.PartialShape(s) for s in shapes])
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    if isinstance(module, _Encoder):
        model.outputs[0].get_tensor().set_names({"latent_parameters"})  # else it takes them for latents, or refuses
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, folder / "openvino_model.xml")


def _copy_configs(source: Path, target: Path) -> None:
    for old, new in {"vae": "vae_encoder", "unet": "unet", "text_encoder": "text_encoder"}.items():
        shutil.copy(source / old / "config.json", target / new / "config.json")
    shutil.copy(source / "vae" / "config.json", target / "vae_decoder" / "config.json")
    (target / "scheduler").mkdir(exist_ok=True)
    scheduler = json.loads((source / "scheduler" / "scheduler_config.json").read_text()) | {
        "_class_name": "DDIMScheduler"
    }
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = json.loads((source / "model_index.json").read_text()) | {"_class_name": CLASS}
    (target / "model_index.json").write_text(json.dumps(index))
