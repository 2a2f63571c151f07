"""FLOPs of the networks, counted on the meta device: nothing is loaded, allocated or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextModel

from benchmarks.architectures import TEXTS, VAE, Family, clip_config, unet_config

FACTOR, TOKENS = 8, 77  # pixels per latent pixel, and tokens of a prompt


class Work(NamedTuple):
    """FLOPs (two for each multiply-add; matmuls and convolutions only) and the UNet's number of weights.

    `unet_row` is one latent with one prompt; a guided step is two. `text` is one prompt through all text encoders.
    """

    unet_row: int
    vae_encode: int
    vae_decode: int
    text: int
    unet_weights: int

    def image(self, denoise_steps: int, guided: bool) -> int:
        """FLOPs of one image, nothing shared with others."""
        rows = 2 if guided else 1
        return self.vae_encode + self.vae_decode + rows * (self.text + denoise_steps * self.unet_row)


def count_work(family: Family, size: int) -> Work:
    """The work of square images with sides of `size` pixels, a multiple of 8."""
    side = size // FACTOR
    with torch.device("meta"), torch.no_grad():
        unet, vae = UNet2DConditionModel(**unet_config(family)), AutoencoderKL(**VAE)
        texts = [CLIPTextModel(clip_config(*text)) for text in TEXTS[family]]
        latent, ids = torch.empty(1, 4, side, side), torch.empty(1, TOKENS, dtype=torch.long)
        prompt = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
        sdxl = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        return Work(
            unet_row=_flops(unet, latent, torch.empty(1), prompt, added_cond_kwargs=sdxl),
            vae_encode=_flops(vae.encode, torch.empty(1, 3, size, size)),
            vae_decode=_flops(vae.decode, latent),
            text=sum(_flops(text, ids) for text in texts),
            unet_weights=sum(parameter.numel() for parameter in unet.parameters()),
        )


def _flops(network: Callable[..., Any], *inputs: Any, **named: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        network(*inputs, **named)
    return int(counter.get_total_flops())
