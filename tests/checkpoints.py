"""Tiny random-weight checkpoints in diffusers format, the same every time, for every family the engine serves."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

from training.tiny import make_text_encoder, make_unet, make_vae
from training.tokenizer import make_tokenizer

KINDS = ("sd15", "sd21", "sdxl", "sd15_sample", "lcm", "inpainting")

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}


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


def _sd(kind: str) -> StableDiffusionImg2ImgPipeline:
    tokenizer = make_tokenizer()
    is_v = kind == "sd21"
    unet: dict[str, Any] = {
        "sd21": {"attention_head_dim": [4, 8], "use_linear_projection": True},
        "lcm": {"time_cond_proj_dim": 32},
        "inpainting": {"in_channels": 9},
    }.get(kind, {})
    return StableDiffusionImg2ImgPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer, hidden_act="gelu" if is_v else "quick_gelu"),
        tokenizer=tokenizer,
        unet=make_unet(carries_noise=not is_v, **_UNET | unet),
        scheduler=_scheduler(kind),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler(kind: str) -> PNDMScheduler | DDIMScheduler | LCMScheduler:
    config = {**_BETAS, "steps_offset": 1, "set_alpha_to_one": False}
    if kind == "sd21":
        return DDIMScheduler(**config, clip_sample=False, prediction_type="v_prediction")
    if kind == "lcm":
        return LCMScheduler(**_BETAS, original_inference_steps=50)
    prediction_type = "sample" if kind == "sd15_sample" else "epsilon"
    scheduler = PNDMScheduler(**config, skip_prk_steps=True, prediction_type=prediction_type)
    scheduler.register_to_config(clip_sample=False)  # SD1.5's file has it, for the samplers that read it
    return scheduler


def _sdxl() -> StableDiffusionXLImg2ImgPipeline:
    tokenizer = make_tokenizer()
    unet = _UNET | {
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
        unet=make_unet(carries_noise=True, **unet),
        scheduler=EulerDiscreteScheduler(
            **_BETAS, steps_offset=1, timestep_spacing="leading", interpolation_type="linear"
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
