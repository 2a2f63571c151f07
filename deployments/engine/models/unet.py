"""A UNet without what it computes again at every step though it depends on the prompt or the time alone.

Cross-attention's keys and values come from the prompt; what each ResNet adds comes from the time and, in SDXL, from the
pooled prompt and the sizes. Both are computed once a request, by the network's own layers, and go into the forwards as
inputs. So every family has the same three inputs, and a compiled forward knows nothing of prompts or time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


class HoistedUnet(nn.Module):
    """Takes over `unet`, a diffusers UNet2DConditionModel, which cannot be called by itself any more.

    For n rows, `context` makes (n, tokens, all keys and values) of prompt embeddings (n, tokens, width), and `times`
    makes (n, all ResNets' channels) of time steps (n,). Adapters take part where they are switched on.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self._embed_times = _TimeEmbedding(unet)
        attentions = [
            module for module in unet.modules() if isinstance(module, Attention) and module.is_cross_attention
        ]
        self._context = _hoist([(attention, name) for attention in attentions for name in ("to_k", "to_v")])
        resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
        self._times = _hoist([(resnet, "time_emb_proj") for resnet in resnets])
        for resnet in resnets:
            resnet.skip_time_act = True  # _Part gets what was activated before
        unet.time_embedding = _PassOn(unet.time_embedding)
        unet.get_time_embed = _given_times
        unet.get_aug_embed = _nothing
        self.context_width, self.times_width = _width(self._context), _width(self._times)

    def forward(self, latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The network's output for latents (n, channels, h, w) and their rows of `times` and `context`."""
        output: torch.Tensor = self.unet(latents, times, encoder_hidden_states=context, return_dict=False)[0]
        return output

    def context(self, hidden: torch.Tensor) -> torch.Tensor:
        """What every cross-attention makes of the prompts."""
        self._fetch()
        return torch.cat([part.projection(hidden) for part in self._context], dim=-1)

    def times(
        self,
        timesteps: torch.Tensor,
        *,
        guidance: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the ResNets add at these time steps, for the `guidance` embedding (n, width) of distilled UNets and
        SDXL's `pooled` prompts (n, width) and `time_ids` (n, sizes)."""
        self._fetch()
        embedding = nn.functional.silu(self._embed_times(timesteps, guidance, pooled, time_ids))
        return torch.cat([part.projection(embedding) for part in self._times], dim=-1)

    def _fetch(self) -> None:
        """Where `memory_efficient` keeps the weights off the GPU: bring them, as a forward would."""
        if (hook := getattr(self.unet, "_hf_hook", None)) is not None:
            hook.pre_forward(self.unet)


class _Part(nn.Module):
    """Stands where a projection stood, and takes its columns of what all have made before."""

    def __init__(self, projection: nn.Module, start: int) -> None:
        super().__init__()
        self.projection = projection  # still in the network, so that adapters reach it
        self.columns = slice(start, start + int(projection.out_features))  # type: ignore[arg-type]

    def forward(self, made: torch.Tensor) -> torch.Tensor:
        return made[..., self.columns]


class _TimeEmbedding(nn.Module):
    """The UNet's own embedding of times, with what SDXL adds to it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self._time_proj, self._time_embedding = unet.time_proj, unet.time_embedding
        self._add: Callable[..., torch.Tensor] | None
        self._add = unet.get_aug_embed if unet.config.addition_embed_type == "text_time" else None

    def forward(
        self,
        timesteps: torch.Tensor,
        guidance: torch.Tensor | None,
        pooled: torch.Tensor | None,
        time_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        dtype = next(self._time_embedding.parameters()).dtype  # the UNet's own takes as long as to look at all of it
        embedding: torch.Tensor = self._time_embedding(self._time_proj(timesteps).to(dtype), guidance)
        if self._add is not None:
            added = {"text_embeds": pooled, "time_ids": time_ids}
            embedding = embedding + self._add(emb=embedding, encoder_hidden_states=None, added_cond_kwargs=added)
        return embedding


class _PassOn(nn.Module):
    """Stands where the time embedding stood."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding  # still in the network, so that adapters reach it

    def forward(self, times: torch.Tensor, guidance: None) -> torch.Tensor:
        return times


def _hoist(places: list[tuple[nn.Module, str]]) -> list[_Part]:
    """Put a part in each place (module, attribute), one column after the other."""
    parts: list[_Part] = []
    for module, name in places:
        parts.append(_Part(getattr(module, name), _width(parts)))
        setattr(module, name, parts[-1])
    return parts


def _width(parts: list[_Part]) -> int:
    return parts[-1].columns.stop if parts else 0


def _given_times(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return timestep


def _nothing(**_: Any) -> None:
    return None
