"""A UNet that caches per request what does not change from step to step.

Cross-attention's keys and values depend on the prompt alone. What each ResNet adds for the time depends on the time
step and, in SDXL, on the pooled prompt and the sizes. Both are computed once a request by the network's own layers and
are inputs of the forwards. So the UNets of all families have the same inputs, and a compiled forward knows no prompts
and no time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

Given = torch.Tensor | None  # what only some UNets are given


@dataclass(frozen=True, slots=True, eq=False)
class UNetCondition:
    """One row's `temb` (steps, all ResNets' channels) and `encoder_kv` (tokens, all keys and values)."""

    temb: torch.Tensor
    encoder_kv: torch.Tensor

    @property
    def key(self) -> int:
        """The number of tokens."""
        return len(self.encoder_kv)

    def at(self, step: int) -> tuple[torch.Tensor, ...]:
        return self.temb[step], self.encoder_kv


class CachedUNet(nn.Module):
    """Takes over `unet`, a diffusers UNet2DConditionModel, which cannot be called by itself any more.

    For n rows, `encoder_kv` makes (n, tokens, all keys and values) of prompt embeddings (n, tokens, width), and `temb`
    makes (n, all ResNets' channels) of time steps (n,). LoRAs take part where they are switched on.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self._time_embedding = _TimeEmbedding(unet)
        attentions = [
            module for module in unet.modules() if isinstance(module, Attention) and module.is_cross_attention
        ]
        self._kv = _replace_projections([(attention, name) for attention in attentions for name in ("to_k", "to_v")])
        resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
        self._temb = _replace_projections([(resnet, "time_emb_proj") for resnet in resnets])
        for resnet in resnets:
            resnet.skip_time_act = True  # the cached projection was activated before
        unet.time_embedding = _Identity(unet.time_embedding)
        unet.get_time_embed = lambda sample, timestep: timestep
        unet.get_aug_embed = lambda **_: None
        self.kv_width, self.temb_width = _width(self._kv), _width(self._temb)

    def forward(self, latents: torch.Tensor, temb: torch.Tensor, encoder_kv: torch.Tensor) -> torch.Tensor:
        """The output (n, channels, h, w), in the latents' dtype, for latents and their `temb` and `encoder_kv`."""
        output: torch.Tensor = self.unet(
            latents.to(temb.dtype), temb, encoder_hidden_states=encoder_kv, return_dict=False
        )[0]
        return output.to(latents.dtype)

    def encoder_kv(self, hidden: torch.Tensor) -> torch.Tensor:
        """The keys and values of all cross-attentions."""
        self._fetch_weights()
        return torch.cat([cached.projection(hidden) for cached in self._kv], dim=-1)

    def temb(
        self, timesteps: torch.Tensor, *, guidance: Given = None, pooled: Given = None, time_ids: Given = None
    ) -> torch.Tensor:
        """What the ResNets add at these time steps.

        `guidance` (n, width) is the embedded guidance scale of distilled UNets. SDXL has `pooled` prompts (n, width)
        and `time_ids` (n, sizes).
        """
        self._fetch_weights()
        embedding = nn.functional.silu(self._time_embedding(timesteps, guidance, pooled, time_ids))
        return torch.cat([cached.projection(embedding) for cached in self._temb], dim=-1)

    def _fetch_weights(self) -> None:
        """Where `memory_efficient` keeps the weights off the GPU: bring them, as a forward would."""
        if (hook := getattr(self.unet, "_hf_hook", None)) is not None:
            hook.pre_forward(self.unet)


class _CachedProjection(nn.Module):
    """Stands in for a projection, and takes its columns of the cached results."""

    def __init__(self, projection: nn.Module, start: int) -> None:
        super().__init__()
        self.projection = projection  # still in the network, so that LoRAs reach it
        self.columns = slice(start, start + int(projection.out_features))  # type: ignore[arg-type]

    def forward(self, cached: torch.Tensor) -> torch.Tensor:
        return cached[..., self.columns]


class _TimeEmbedding(nn.Module):
    """The UNet's own embedding of time steps, with what SDXL adds to it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self._time_proj, self._time_embedding = unet.time_proj, unet.time_embedding
        self._add: Callable[..., torch.Tensor] | None
        self._add = unet.get_aug_embed if unet.config.addition_embed_type == "text_time" else None

    def forward(self, timesteps: torch.Tensor, guidance: Given, pooled: Given, time_ids: Given) -> torch.Tensor:
        dtype = next(self._time_embedding.parameters()).dtype  # the UNet's own property looks at all its parameters
        embedding: torch.Tensor = self._time_embedding(self._time_proj(timesteps).to(dtype), guidance)
        if self._add is not None:
            added = {"text_embeds": pooled, "time_ids": time_ids}
            embedding = embedding + self._add(emb=embedding, encoder_hidden_states=None, added_cond_kwargs=added)
        return embedding


class _Identity(nn.Module):
    """Stands in for the time embedding."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding  # still in the network, so that LoRAs reach it

    def forward(self, temb: torch.Tensor, guidance: None) -> torch.Tensor:
        return temb


def _replace_projections(places: list[tuple[nn.Module, str]]) -> list[_CachedProjection]:
    """Put a cached projection in each place (module, attribute), one column after the other."""
    cached: list[_CachedProjection] = []
    for module, name in places:
        cached.append(_CachedProjection(getattr(module, name), _width(cached)))
        setattr(module, name, cached[-1])
    return cached


def _width(cached: list[_CachedProjection]) -> int:
    return cached[-1].columns.stop if cached else 0
