"""Upsampling and convolution in one layer give what the two give."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models.upsampling import Upsample2D
from torch import nn

from deployments.engine.accel.cpu.upsampling import FusedUpsample, fuse_upsampling


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
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        if odd == (0, 0):
            torch.testing.assert_close(fused(layer)(hidden), expected, atol=1e-5, rtol=1e-5)


def test_two_layers_of_a_tiny_autoencoder_are_fused_as_one() -> None:
    torch.manual_seed(0)
    widths, blocks = (8, 8, 8), (1, 1, 0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    latents = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        fuse_upsampling(vae)
        torch.testing.assert_close(vae.decode(latents).sample, expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.Upsample) for module in vae.modules())
    assert sum(isinstance(module, FusedUpsample) for module in vae.modules()) == 2


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 8, 3, padding=1)),
        (nn.Upsample(scale_factor=3), nn.Conv2d(8, 8, 3, padding=1)),
        (nn.Upsample(size=(4, 4)), nn.Conv2d(8, 8, 3, padding=1)),
        (nn.Upsample(scale_factor=2), nn.ReLU()),
    ],
)
def test_two_layers_of_other_kinds_stay(layers: tuple[nn.Module, nn.Module]) -> None:
    sequence = nn.Sequential(*layers)
    fuse_upsampling(sequence)
    assert tuple(sequence) == layers


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
