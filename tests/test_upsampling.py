"""Upsampling and convolution in one layer give what the two give."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from deployments.engine.upsampling import FusedUpsample, PhasedUpsample, fuse_upsampling


def fused(layer: nn.Module) -> nn.Module:
    network = nn.ModuleList([layer])
    fuse_upsampling(network)
    return network[0]


@pytest.mark.parametrize("sides", [(8, 8), (5, 9), (1, 1), (2, 1)])
@pytest.mark.parametrize("odd", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_fused_layer_gives_what_the_two_give(sides: tuple[int, int], odd: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, hidden = Upsample2D(24, use_conv=True, out_channels=16), torch.randn(2, 24, *sides)
    size = [2 * side - less for side, less in zip(sides, odd, strict=True)]
    with torch.no_grad():
        expected, found = layer(hidden, size), fused(layer)(hidden, size)
        phased = PhasedUpsample(layer.conv)(hidden, size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(phased, expected, atol=1e-5, rtol=1e-5)
        if odd == (0, 0):
            torch.testing.assert_close(fused(layer)(hidden), expected, atol=1e-5, rtol=1e-5)


def test_the_kernel_is_rounded_once() -> None:
    layer = Upsample2D(8, use_conv=True)
    with torch.no_grad():
        exact = fused(layer).weight  # type: ignore[union-attr]
        layer.to(torch.bfloat16)
        rounded = FusedUpsample(layer.conv).weight
    torch.testing.assert_close(rounded.float(), exact, atol=2**-8, rtol=2**-7)  # type: ignore[arg-type]
    assert rounded.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "layer",
    [
        Upsample2D(8),
        Upsample2D(8, use_conv_transpose=True),
        Upsample2D(8, use_conv=True, name="Conv2d_0"),
        Upsample2D(8, use_conv=True, kernel_size=1, padding=0),
        Upsample2D(8, use_conv=True, interpolate=False),
        Upsample2D(8, use_conv=True, norm_type="ln_norm", eps=1e-5, elementwise_affine=True),
    ],
)
def test_layers_of_other_kinds_stay(layer: Upsample2D) -> None:
    assert fused(layer) is layer
