"""Assembles tiny networks, tokenizer and sampler settings into Stable Diffusion 1.5 and 2.1 pipelines."""

from typing import Any

from diffusers import DDIMScheduler, PNDMScheduler, SchedulerMixin, StableDiffusionImg2ImgPipeline

from training.tiny import make_text_encoder, make_unet, make_vae
from training.tokenizer import make_tokenizer

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET: dict[str, Any] = {
    "noise_gain": 0.9,
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
# what sets SD2.1's UNet apart: it predicts v
UNET_V: dict[str, Any] = {
    **UNET,
    "noise_gain": 0.0,
    "attention_head_dim": [4, 8],
    "use_linear_projection": True,
}


def make_pipeline(
    scheduler: SchedulerMixin,
    unet: dict[str, Any],
    vae: dict[str, Any] | None = None,
    hidden_act: str = "quick_gelu",
) -> StableDiffusionImg2ImgPipeline:
    """A pipeline of random weights from torch's global generator; `unet` and `vae` go to their makers."""
    tokenizer = make_tokenizer()
    return StableDiffusionImg2ImgPipeline(
        vae=make_vae(**vae or {}),
        text_encoder=make_text_encoder(tokenizer, hidden_act=hidden_act),
        tokenizer=tokenizer,
        unet=make_unet(**unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd15_scheduler(prediction_type: str = "epsilon") -> PNDMScheduler:
    """The noise schedule as SD1.5 ships it."""
    scheduler = PNDMScheduler(
        **BETAS,
        steps_offset=1,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        prediction_type=prediction_type,
    )
    scheduler.register_to_config(clip_sample=False)  # in SD1.5's file for the samplers that read it
    return scheduler


def sd21_scheduler() -> DDIMScheduler:
    """The noise schedule as SD2.1 (768, v-prediction) ships it."""
    return DDIMScheduler(
        **BETAS, steps_offset=1, set_alpha_to_one=False, clip_sample=False, prediction_type="v_prediction"
    )
