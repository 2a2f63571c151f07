"""Guided requests' two rows in one call on a GPU, without what they have in common or what is known beforehand.

In SD1 and SD2 they differ in the prompt alone, so that all before the first cross-attention is computed once. In SDXL
the time embedding knows the prompt, but a missing negative prompt is embedded as zeros (force_zeros_for_empty_prompt):
cross-attention's keys and values are zeros then, and all that it gives is its last layer's bias. That is 3.7 % of two
rows' multiplications at 1024 px, as the other is 2.5 % in SD1.5 at 512 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from deployments.engine.forking import where_prompts_enter
from deployments.engine.graphs import Graphed
from deployments.engine.hoisting import HoistedUnet
from deployments.engine.networks import UnetForward
from deployments.engine.state import Rows

LEAST_PAIRS = 2  # one is two rows like others, and inductor would compile for one by itself


class PairedUnet:
    """Takes over a `unet` without adapters. `is_possible` says whether pairs save anything there.

    `contexts` is how many prompts a pair has: two, or one where the other's are zeros.
    """

    def __init__(self, unet: HoistedUnet) -> None:
        self._unet = unet.unet
        knows_prompt = unet.unet.config.addition_embed_type is not None
        self.contexts = 1 if knows_prompt else 2
        self.is_possible = _skip_zeros(unet.unet) if knows_prompt else _share_start(unet.unet)

    def suits(self, request: Rows) -> bool:
        """Whether these rows are such a pair."""
        return request.count == 2 and (self.contexts == 2 or request.lacks_negative)

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Latents (n, channels, h, w), times (n, 2, width) and context (n, contexts, tokens, width) to outputs
        (n, 2, channels, h, w)."""
        latents = latents if self.contexts == 2 else _twice(latents)
        times, context = (x.transpose(0, 1).flatten(0, 1) for x in (times, context))
        output: torch.Tensor = self._unet(latents, times, encoder_hidden_states=context, return_dict=False)[0]
        return output.reshape(2, -1, *output.shape[1:]).transpose(0, 1)


def pairs_first(rows: Graphed, pairs: Graphed, paired: PairedUnet) -> UnetForward:
    """Replays those rows that are pairs as such, where that is quicker than all rows at once."""

    def forward(
        latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor, requests: Sequence[Rows]
    ) -> torch.Tensor:
        inputs = latents, times, context
        count = sum(1 for _ in takewhile(paired.suits, requests))
        if count < LEAST_PAIRS:
            return rows(*inputs)
        rest = [x[2 * count :] for x in inputs]
        steering = [x[: 2 * count].reshape(count, 2, *x.shape[1:]) for x in (times, context)]
        of_pairs = latents[: 2 * count : 2], steering[0], steering[1][:, -paired.contexts :]
        if pairs.seconds_of(of_pairs) + rows.seconds_of(rest) >= rows.seconds_of(inputs):
            pairs.want(of_pairs)
            return rows(*inputs)
        outputs = pairs(*of_pairs).flatten(0, 1)
        return torch.cat([outputs, rows(*rest)]) if len(rest[0]) else outputs

    return forward


def _share_start(unet: Any) -> bool:
    """Have it take n latents where it gets 2n rows of times and context: all pairs' first rows, then their second ones.

    False, and nothing is changed, if a pair has nothing in common.
    """
    transformer = where_prompts_enter(unet)
    if transformer is None:
        return False
    for block in (*unet.down_blocks, unet.mid_block):
        for module in block.modules() if block else ():
            if isinstance(module, ResnetBlock2D):
                module.register_forward_pre_hook(_times_as_hidden)
    transformer.register_forward_pre_hook(_hidden_twice, with_kwargs=True)
    first: Any = transformer.transformer_blocks
    first[0].attn1 = _Once(first[0].attn1)
    for block in unet.up_blocks:
        block.register_forward_pre_hook(_skips_twice, with_kwargs=True)
    return True


def _skip_zeros(unet: Any) -> bool:
    """Have it take n rows of context with 2n of latents and times, the first n of which have zeros for theirs.

    False, and nothing is changed, if keys or values of zeros are not zeros.
    """
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    crossing = [module for module in unet.modules() if isinstance(module, Attention) and module.is_cross_attention]
    if any(_bias(attention.to_k) is not None or _bias(attention.to_v) is not None for attention in crossing):
        return False
    for block in blocks:
        block.attn2 = _OfPrompts(block.attn2)
    return True


def _bias(layer: Any) -> torch.Tensor | None:
    """Of a projection, or of one that stands for it; see hoisting.py."""
    bias: torch.Tensor | None = getattr(layer, "projection", layer).bias
    return bias


class _Once(nn.Module):
    """Computes a self-attention for the first of two halves that are alike, and gives the result twice."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return _twice(self.attention(hidden[: hidden.shape[0] // 2], **kwargs))


class _OfPrompts(nn.Module):
    """Computes a cross-attention for the second half, which has prompts, and for the first what zeros give."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        half = hidden.shape[0] // 2
        attended = self.attention(hidden[half:], **kwargs)
        bias = self.attention.to_out[0].bias
        return torch.cat([bias.expand_as(attended), attended])


def _twice(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x])


def _times_as_hidden(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    hidden, times = args
    return hidden, times[: hidden.shape[0]]


def _hidden_twice(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    hidden, *rest = args
    return (_twice(hidden), *rest), kwargs


def _skips_twice(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    rows = kwargs["hidden_states"].shape[0]
    skips = tuple(skip if skip.shape[0] == rows else _twice(skip) for skip in kwargs["res_hidden_states_tuple"])
    return args, kwargs | {"res_hidden_states_tuple": skips}
