"""The attention in the middle of a VAE, whose one head is wider than fast kernels for attention take.

Flash attention and cuDNN's stop at 256 channels; what torch has for 512 took 0.38 of the 7.7 ms of decoding 512 px on
an H100, and its part grows with the picture. As two products with a softmax between them it is as exact: scores and
softmax are in float32, and weights are rounded before the second product, as those kernels do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from deployments.engine.quicker import Substitute

WIDEST = 256  # heads that fast kernels take
MOST_TOKENS = 128 * 128  # whose scores take 1 GiB


def of_products(network: nn.Module) -> Iterator[Substitute]:
    """Substitutes for a diffusers VAE's attentions of that kind."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, Attention) and _is_plain(child):
                yield Substitute(parent, name, ProductAttention(child))


def _is_plain(attention: Attention) -> bool:
    return (
        attention.heads == 1
        and attention.query_dim > WIDEST
        and attention.residual_connection
        and attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.norm_k is None
    )


class ProductAttention(nn.Module):
    """What `attention` gives for (n, channels, h, w). Larger pictures than MOST_TOKENS go to itself."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        """As the attention's own, without a mask."""
        attention = self.attention
        if hidden.shape[2] * hidden.shape[3] > MOST_TOKENS:
            whole: torch.Tensor = attention(hidden, temb=temb)
            return whole
        tokens = attention.group_norm(hidden.flatten(2)).transpose(1, 2)
        query, key, value = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
        scores = _product(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
        attended = torch.bmm(scores.softmax(-1).to(value.dtype), value)
        output: torch.Tensor = attention.to_out[0](attended).transpose(1, 2).reshape(hidden.shape)
        result: torch.Tensor = (output + hidden) / attention.rescale_output_factor
        return result


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """In float32, where CUDA need not round it first."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
