"""An encoder in float16 whose values would not fit into it."""

from __future__ import annotations

from copy import deepcopy

import torch
from diffusers import AutoencoderKL
from torch import nn

from deployments.engine.models.scaled_fp16 import to_scaled_fp16
from tests.support.reference import relative_error

PIXELS = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def encoder(gain: float = 1.0) -> nn.Module:
    """Of SDXL's kind and of random weights, whose values between the blocks are `gain` times larger."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    for name, weight in vae.encoder.named_parameters():
        if name == "conv_in.weight" or name.endswith("conv2.weight"):  # what the blocks' sums are made of
            weight *= gain
    return vae.encoder.eval()


@torch.inference_mode()
def test_values_beyond_float16_come_through() -> None:
    network = encoder(gain=1e5)
    exact = network(PIXELS)
    assert not torch.isfinite(deepcopy(network).half()(PIXELS.half())).all()
    to_scaled_fp16(network)
    assert relative_error(network(PIXELS), exact) < 0.002


@torch.inference_mode()
def test_result_is_as_near_as_float16s_and_far_nearer_than_bfloat16s() -> None:
    network = encoder()
    exact = network(PIXELS)
    half, bfloat = (deepcopy(network).to(dtype)(PIXELS.to(dtype)) for dtype in (torch.float16, torch.bfloat16))
    to_scaled_fp16(network)
    error = relative_error(network(PIXELS), exact)
    assert 0 < error <= relative_error(half, exact)
    assert error < relative_error(bfloat, exact) / 5


@torch.inference_mode()
def test_matmuls_run_in_float16_and_sums_in_float32() -> None:
    network = encoder()
    to_scaled_fp16(network)
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    output = network(PIXELS)
    assert set(seen) == {(torch.float16, torch.float16)}
    assert output.dtype == torch.float32
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.weight.dtype for norm in norms} == {torch.float32}


@torch.inference_mode()
def test_network_put_into_float32_again_is_exact() -> None:
    network = encoder().half().float()  # weights that float16 has
    exact = network(PIXELS)
    to_scaled_fp16(network)
    torch.testing.assert_close(network.float()(PIXELS), exact)
