"""A VAE's attention as two products gives what it gives as one."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention

from benchmarks.architectures import VAE
from deployments.engine import wide_attention
from deployments.engine.half_range import keep_in_range
from deployments.engine.wide_attention import ProductAttention, of_products

WIDTHS = {"block_out_channels": (32, 320), "down_block_types": ("DownEncoderBlock2D",) * 2}
SMALL = {**VAE, **WIDTHS, "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1}


def replace_all(vae: AutoencoderKL) -> int:
    found = list(of_products(vae))
    for substitute in found:
        setattr(*substitute)
    return len(found)


@torch.no_grad()
def test_both_halves_give_the_same() -> None:
    torch.manual_seed(0)
    vae, pixels = AutoencoderKL(**SMALL), torch.randn(2, 3, 16, 24)
    latents = torch.randn(2, 4, 8, 12)
    expected = vae.encode(pixels).latent_dist.parameters, vae.decode(latents).sample
    assert replace_all(vae) == 2
    found = vae.encode(pixels).latent_dist.parameters, vae.decode(latents).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_half_precision_is_as_near_to_float32_as_before() -> None:
    torch.manual_seed(0)
    vae, latents = AutoencoderKL(**SMALL), torch.randn(1, 4, 8, 12)
    exact = vae.decode(latents).sample
    vae.to(torch.bfloat16)
    before = vae.decode(latents.bfloat16()).sample
    replace_all(vae)
    after = vae.decode(latents.bfloat16()).sample
    assert (after - exact).square().mean() < 1.2 * (before - exact).square().mean()


@torch.no_grad()
def test_an_encoder_kept_in_range_stays_so() -> None:
    torch.manual_seed(0)
    vae, pixels = AutoencoderKL(**SMALL), torch.randn(1, 3, 16, 24)
    keep_in_range(vae.encoder)
    expected = vae.encoder(pixels)
    replace_all(vae)
    torch.testing.assert_close(vae.encoder(pixels), expected, atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_large_pictures_go_to_the_attention_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_attention, "MOST_TOKENS", 8)
    attention = Attention(320, dim_head=320, heads=1, norm_num_groups=32, residual_connection=True, bias=True)
    hidden = torch.randn(1, 320, 3, 3)
    assert torch.equal(ProductAttention(attention)(hidden), attention(hidden))


def test_attentions_of_usual_heads_stay() -> None:
    assert not list(of_products(AutoencoderKL(**{**SMALL, "block_out_channels": (32, 64)})))
