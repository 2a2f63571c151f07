"""What two prompts' rows have in common is computed once, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from deployments.engine.forking import fork_at_prompt
from deployments.engine.hoisting import HoistedUnet

Checkpoints = Callable[[str], Path]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make_inputs(unet: HoistedUnet, rows: int) -> Inputs:
    torch.manual_seed(0)
    latents, times = torch.randn(1, unet.unet.config.in_channels, 8, 6), torch.randn(1, unet.times_width)
    return latents, times, torch.randn(rows, 77, unet.context_width)


def repeated(latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> Inputs:
    return latents.repeat(len(context), 1, 1, 1), times.repeat(len(context), 1), context


def flops(unet: HoistedUnet, inputs: Inputs) -> int:
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", ["sd15", "sd21", "lcm"])
@pytest.mark.parametrize("rows", [1, 2, 3])
@torch.no_grad()
def test_one_latent_for_many_prompts_gives_what_a_latent_for_each_gives(
    kind: str, rows: int, checkpoints: Checkpoints
) -> None:
    unet = HoistedUnet(UNet2DConditionModel.from_pretrained(checkpoints(kind), subfolder="unet"))
    inputs = make_inputs(unet, rows)
    expected = unet(*repeated(*inputs))
    assert fork_at_prompt(unet)
    torch.testing.assert_close(unet(*inputs), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_embedded_unet_saves_a_twelfth() -> None:
    unet = HoistedUnet(UNet2DConditionModel.from_pretrained("data/models/tiny-sd15", subfolder="unet"))
    inputs = make_inputs(unet, 2)
    alone = flops(unet, repeated(*inputs))
    fork_at_prompt(unet)
    assert flops(unet, inputs) < 11 / 12 * alone


@torch.no_grad()
def test_a_unet_whose_times_know_the_prompt_stays_as_it_is(checkpoints: Checkpoints) -> None:
    unet = HoistedUnet(UNet2DConditionModel.from_pretrained(checkpoints("sdxl"), subfolder="unet"))
    inputs = repeated(*make_inputs(unet, 2))
    expected = unet(*inputs)
    assert not fork_at_prompt(unet)
    assert torch.equal(unet(*inputs), expected)


def test_a_unet_without_a_self_attention_before_the_prompt_stays_as_it_is() -> None:
    sizes = {"block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 8}
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    assert not fork_at_prompt(HoistedUnet(UNet2DConditionModel(**sizes, **blocks, only_cross_attention=True)))
    assert fork_at_prompt(HoistedUnet(UNet2DConditionModel(**sizes, **blocks)))
