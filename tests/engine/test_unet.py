"""What is computed once is what diffusers' UNet computes at every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from deployments.engine.models.unet import CachedUNet

TIMESTEPS = torch.tensor([901.0, 37.0])


def added_of(kind: str, stock: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    if kind != "sdxl":
        return {}
    sizes = torch.tensor([[64.0, 48, 0, 0, 64, 48], [32.0, 32, 0, 0, 32, 32]])
    width = stock.add_embedding.linear_1.in_features - sizes.shape[1] * stock.config.addition_time_embed_dim
    return {"text_embeds": torch.randn(2, width), "time_ids": sizes}


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "lcm"])
@torch.inference_mode()
def test_output_is_bitwise_that_of_diffusers(kind: str, checkpoints: Callable[[str], Path]) -> None:
    stock = UNet2DConditionModel.from_pretrained(checkpoints(kind), subfolder="unet")
    latents = torch.randn(2, stock.config.in_channels, 8, 6)
    hidden = torch.randn(2, 77, stock.config.cross_attention_dim)
    added = added_of(kind, stock)
    guidance = torch.randn(2, stock.config.time_cond_proj_dim) if stock.config.time_cond_proj_dim else None
    expected = stock(latents, TIMESTEPS, hidden, timestep_cond=guidance, added_cond_kwargs=added, return_dict=False)[0]
    unet = CachedUNet(stock)
    temb = unet.temb(TIMESTEPS, guidance=guidance, pooled=added.get("text_embeds"), time_ids=added.get("time_ids"))
    assert torch.equal(unet(latents, temb, unet.encoder_kv(hidden)), expected)
