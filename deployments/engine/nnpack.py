"""A VAE whose 3x3 convolutions are NNPACK's, which comes with torch. They multiply a fifth as often as others do (Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015), and take a third of the time on large pictures.

benchmarks/convolutions.py measures them beside torch's own.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn

from deployments.engine.adapters import without_adapters
from deployments.engine.networks import VaeNetworks, eager_vae

LEAST_PIXELS = 32 * 32  # below, transforming the filters, anew at each call, costs more than it saves


def is_available() -> bool:
    """On the processors that it was measured on. NNPACK cannot be called before it was asked for."""
    return platform.machine() == "x86_64" and bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]


def nnpack_vae(vae: Any) -> VaeNetworks:
    """A diffusers VAE's two halves in float32. The weights are shared with `vae`, and the rows run one by one."""
    copied = without_adapters(vae)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and _is_plain(child):
                setattr(module, name, Convolution(child))
            elif isinstance(child, nn.SiLU):  # on what a normalisation gave, which nobody else reads
                setattr(module, name, nn.SiLU(inplace=True))
    return eager_vae(copied)


def _is_plain(convolution: nn.Conv2d) -> bool:
    shape = convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and convolution.padding_mode == "zeros"


class Convolution(nn.Module):
    """What a plain 3x3 `convolution` gives for (n, channels, h, w), but for rounding."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.shape[-2:].numel() < LEAST_PIXELS:
            return nn.functional.conv2d(pictures, self.weight, self.bias, padding=1)
        convolve = torch.ops.aten._nnpack_spatial_convolution
        rows = [convolve(row[None], self.weight, self.bias, padding=[1, 1]) for row in pictures]
        return torch.cat(rows) if len(rows) > 1 else rows[0]  # no copy of one row
