"""Float16's speed for a network whose values exceed float16's range, as those of SDXL's first VAE do.

Sums and normalisations stay in float32. Convolutions and matmuls, where the time goes, take their input in float16 and
SCALE times smaller, which torch.autocast does not do. Both factors are powers of two, so they add no rounding to
float16's own (11 bits; bfloat16 has 8). Values up to 65504 * SCALE pass.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

SCALE = 256.0


class ScaledLayer(nn.Module):
    """A convolution or a linear layer: float32 in and out, computed in its weights' dtype.

    Where `narrow`, the output keeps the weights' dtype, as attention's queries, keys and values may.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, *, narrow: bool) -> None:
        super().__init__()
        self.bias, layer.bias = layer.bias, None
        self.layer = layer
        self.narrow = narrow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer((x / SCALE).to(self.layer.weight.dtype)).float() * SCALE
        if self.bias is not None:
            bias = self.bias.float()
            output = output + (bias.view(-1, 1, 1) if isinstance(self.layer, nn.Conv2d) else bias)
        return output.to(self.layer.weight.dtype) if self.narrow else output


def to_scaled_fp16(network: nn.Module) -> None:
    """Convert a network in place, to float16 where it multiplies and to float32 everywhere else."""
    network.float()
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    narrow = {layer for attention in attentions for layer in (attention.to_q, attention.to_k, attention.to_v)}
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                setattr(parent, name, ScaledLayer(layer.half(), narrow=layer in narrow))
