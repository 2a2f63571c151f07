"""NHWC group norms give what torch's group norm gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import nn

from deployments.config import AppConfig
from deployments.engine.accel.backends import compile_now
from deployments.engine.accel.cpu.norms import SMALL, NHWCGroupNorm, NHWCResnet, use_nhwc_norms
from deployments.engine.request import Img2ImgRequest
from tests.support.reference import make_engine, relative_error, run, unet_family_of

pytestmark = pytest.mark.slow

Checkpoints = Callable[[str], Path]


def replaced(layer: nn.Module) -> nn.Module:
    network = nn.ModuleList([layer])
    use_nhwc_norms(network)
    return network[0]


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, channels, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize(("channels", "groups"), [(48, 8), (64, 64), (6, 1), (SMALL, 32), (SMALL + 32, 32)])
@torch.no_grad()
def test_norm_gives_what_torchs_gives_of_the_sum(channels: int, groups: int) -> None:
    norm = group_norm(channels, groups)
    hidden, shift = 3 + torch.randn(2, channels, 5, 7), torch.randn(2, channels, 1, 1)
    torch.testing.assert_close(replaced(norm)(hidden), norm(hidden), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(NHWCGroupNorm(norm)(hidden, shift), norm(hidden + shift), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_an_attention_are_normalised_as_before() -> None:
    norm, tokens = group_norm(32, 8), torch.randn(2, 32, 11)
    assert torch.equal(replaced(norm)(tokens), norm(tokens))


@torch.no_grad()
def test_a_mean_far_from_zero_costs_no_more_than_rounding_in_bfloat16() -> None:
    norm = group_norm(48, 8)
    hidden = (20 + torch.randn(1, 48, 16, 16)).bfloat16()
    expected = norm(hidden.float())
    assert relative_error(NHWCGroupNorm(norm.bfloat16())(hidden), expected) <= 0.02


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.no_grad()
def test_networks_give_what_they_gave(kind: str, checkpoints: Checkpoints) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(checkpoints(kind), subfolder="vae")
    pixels, latents = torch.rand(1, 3, 32, 48), torch.randn(1, 4, 4, 6)
    before = vae.encode(pixels).latent_dist.mean, vae.decode(latents).sample
    use_nhwc_norms(vae)
    assert not any(isinstance(module, nn.GroupNorm) for module in vae.modules())
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mean, before[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vae.decode(latents).sample, before[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_time_embedding_of_a_unet_still_counts(checkpoints: Checkpoints) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(checkpoints("sd15"), subfolder="unet")
    width = unet.config.cross_attention_dim
    inputs = torch.randn(2, 4, 8, 12), torch.tensor([1, 900]), torch.randn(2, 77, width)
    before = unet(*inputs).sample
    use_nhwc_norms(unet)
    assert sum(isinstance(module, NHWCResnet) for module in unet.modules()) > 0
    torch.testing.assert_close(unet(*inputs).sample, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"up": True}, {"down": True}, {"time_embedding_norm": "scale_shift"}])
@torch.no_grad()
def test_resnets_of_other_kinds_compute_as_before(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=32, temb_channels=16, **options)  # type: ignore[arg-type]
    hidden, times = torch.randn(1, 32, 8, 8), torch.randn(1, 16)
    before = block(hidden, times)
    assert replaced(block) is block
    torch.testing.assert_close(block(hidden, times), before, atol=1e-5, rtol=1e-5)


def test_guided_images_keep_their_shade_in_bfloat16() -> None:
    photo = np.array(Image.open("data/input_images/astronaut.jpg").convert("RGB").resize((256, 256)))
    requests = [
        Img2ImgRequest(f"{seed}", photo, prompt, None, 1.0, 12.0, 6, seed, "dpmpp_2m")
        for seed, prompt in enumerate(AppConfig.model_fields["prompts"].default * 2)
    ]

    def shades(dtype: str) -> np.ndarray[Any, Any]:
        engine = make_engine(Path("data/models/tiny-sd15"), dtype=dtype)
        compile_now(unet_family_of(engine), 8)
        images = run(engine, requests)
        return np.stack([images[request.request_id].mean((0, 1)) for request in requests])

    assert np.abs(shades("bfloat16") - shades("float32")).max() <= 4
