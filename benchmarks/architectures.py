"""Checkpoints to measure with: the embedded one, or the real networks' sizes with random weights.

What a network costs does not depend on its weights, so nothing has to be downloaded. The weights are still scaled so
that images neither vanish nor overflow: a wrong result must be visible.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from diffusers import StableDiffusionXLImg2ImgPipeline as SDXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deployments.config import REPO_ROOT
from training.pipelines import BETAS, sd15_scheduler, sd21_scheduler
from training.tiny import make_unet
from training.tokenizer import make_tokenizer

Family = Literal["sd15", "sd21", "sdxl", "small"]
TINY = REPO_ROOT / "data" / "models" / "tiny-sd15"

UNETS: dict[Family, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd21": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    },
    # SD1.5 at half the width and with one layer a block instead of two: for queueing experiments on a CPU.
    "small": {
        "sample_size": 64,
        "block_out_channels": (160, 320, 640, 640),
        "layers_per_block": 1,
        "cross_attention_dim": 768,
    },
}
# How much of the latents the random UNet's output holds: see `make_unet`. SD2.1 predicts v.
NOISE_GAINS: dict[Family, float] = {"sd15": 0.9, "sd21": 0.0, "sdxl": 0.9, "small": 0.9}
# CLIP ViT-L/14, OpenCLIP ViT-H/14 without its last layer, OpenCLIP ViT-bigG/14: (width, layers, heads, activation)
CLIP_L, CLIP_H, CLIP_G = (768, 12, 12, "quick_gelu"), (1024, 23, 16, "gelu"), (1280, 32, 20, "gelu")
TEXTS: dict[Family, tuple[tuple[int, int, int, str], ...]] = {
    "sd15": (CLIP_L,),
    "sd21": (CLIP_H,),
    "sdxl": (CLIP_L, CLIP_G),
    "small": (CLIP_L,),
}
VOCABULARY = 49408
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def checkpoint_for(arch: str, cache_dir: Path) -> Path:
    """The checkpoint folder for `tiny` (the embedded one), a family (built in `cache_dir` once) or a path.

    `sdxl-turbo` is SDXL made for 512 px: the engine compiles the size that a checkpoint is made for.

    Raises ValueError for anything else.
    """
    if arch == "tiny":
        return TINY
    if arch == "sdxl-turbo":
        return for_512_px(checkpoint_for("sdxl", cache_dir), cache_dir / "random-sdxl-turbo")
    if arch not in get_args(Family):
        if not (Path(arch) / "model_index.json").is_file():
            raise ValueError(f"arch must be tiny, {', '.join(get_args(Family))} or a diffusers folder, not {arch!r}")
        return Path(arch)
    folder = cache_dir / f"random-{arch}"
    if not (folder / "model_index.json").is_file():  # diffusers writes it last
        _build(arch, folder)  # type: ignore[arg-type]
    return folder


def for_512_px(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint that differs in the UNet's `sample_size` alone; all other files are links."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    for part in [*checkpoint.iterdir(), *(checkpoint / "unet").iterdir()]:
        link = folder / part.relative_to(checkpoint)
        if not link.exists():
            link.symlink_to(part.resolve())
    config = json.loads((checkpoint / "unet" / "config.json").read_text()) | {"sample_size": 64}
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    return folder


def _build(family: Family, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = _sdxl() if family == "sdxl" else _sd(family)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")
    if family == "sdxl":
        make_tokenizer(folder / "tokenizer_2", pad_token="!")


def _sd(family: Family) -> StableDiffusionImg2ImgPipeline:
    tokenizer = make_tokenizer()
    return StableDiffusionImg2ImgPipeline(
        vae=_vae(768 if family == "sd21" else 512),
        text_encoder=CLIPTextModel(_clip(tokenizer, *TEXTS[family][0])),
        tokenizer=tokenizer,
        unet=make_unet(**unet_config(family), noise_gain=NOISE_GAINS[family]),
        scheduler=sd21_scheduler() if family == "sd21" else sd15_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> SDXLPipeline:
    tokenizer = make_tokenizer()
    return SDXLPipeline(
        vae=_vae(1024, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_clip(tokenizer, *CLIP_L)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, *CLIP_G)),
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(pad_token="!"),
        unet=make_unet(**unet_config("sdxl"), noise_gain=NOISE_GAINS["sdxl"]),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def unet_config(family: Family) -> dict[str, Any]:
    """The UNet's configuration, where it differs from diffusers' default."""
    config = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8}
    return {**config, **UNETS[family]}


def _clip(tokenizer: CLIPTokenizer, *size: Any) -> CLIPTextConfig:
    return clip_config(*size, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)


def clip_config(width: int, layers: int, heads: int, activation: str, **tokens: int) -> CLIPTextConfig:
    """A text encoder's configuration, of one of the sizes in TEXTS."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        projection_dim=width,
        **tokens,
    )


@torch.no_grad()
def _vae(sample_size: int, scaling_factor: float = 0.18215, force_upcast: bool = False) -> AutoencoderKL:
    """Latents times `scaling_factor` get about unit scale, pixels half of it, as in a trained one."""
    vae = AutoencoderKL(
        **VAE,
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        force_upcast=force_upcast,
    )
    mean = vae.encode(torch.randn(1, 3, 64, 64)).latent_dist.mean
    vae.quant_conv.weight[:4] /= mean.std() * scaling_factor
    vae.quant_conv.bias.zero_()
    pixels = vae.decode(torch.randn(1, 4, 8, 8) / scaling_factor).sample
    vae.decoder.conv_out.weight /= 2 * pixels.std()
    vae.decoder.conv_out.bias.zero_()
    return vae
