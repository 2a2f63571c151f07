"""What steers the UNet besides the latents: a request's prompts, time steps, sizes and guidance, embedded once."""

from __future__ import annotations

from typing import Any

import torch

from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.prompts import PromptEncoder
from deployments.engine.request import Loras
from deployments.engine.state import DenoiseState
from deployments.engine.transfers import to_device


class Conditioner:
    """Of one checkpoint. `text` encodes its prompts; `distilled` says that its UNet takes the guidance as an input."""

    def __init__(self, checkpoint: Checkpoint, *, one_by_one: bool) -> None:
        pipeline = checkpoint.pipeline
        self.text = PromptEncoder(
            _text_encoders(pipeline),
            checkpoint.unet.context,
            is_sdxl=checkpoint.is_sdxl,
            zero_empty=checkpoint.is_sdxl and bool(pipeline.config.force_zeros_for_empty_prompt),
            one_by_one=one_by_one,
        )
        self._checkpoint = checkpoint
        self._guidance_width: int | None = pipeline.unet.config.time_cond_proj_dim
        self._scores = bool(checkpoint.is_sdxl and pipeline.config.requires_aesthetics_score)

    @property
    def distilled(self) -> bool:
        return self._guidance_width is not None

    def fill(self, states: list[DenoiseState], loras: Loras) -> None:
        """Set the states' `conditions` and `times`; the caller has switched the adapters `loras` on."""
        prompts: list[str | None] = []
        for state in states:
            prompts += [state.request.negative_prompt] if state.guided else []
            prompts += [state.request.prompt]
        conditions = iter(self.text.encode(prompts, loras))
        for state in states:
            state.conditions = [next(conditions) for _ in range(state.rows)]
            state.times = self._times(state)

    def _times(self, state: DenoiseState) -> list[torch.Tensor]:
        """What the time steps add in the ResNets; in SDXL it depends on the prompt as well."""
        timesteps = to_device(torch.from_numpy(state.table.timesteps), self._checkpoint.device)
        guidance = self._guidance(state)
        if not self._checkpoint.is_sdxl:
            return [self._checkpoint.unet.times(timesteps, guidance=guidance)] * state.rows
        return [
            self._checkpoint.unet.times(timesteps, guidance=guidance, **self._added(state, row))
            for row in range(state.rows)
        ]

    def _added(self, state: DenoiseState, row: int) -> dict[str, torch.Tensor]:
        """SDXL's pooled prompt and sizes (Podell et al. 2023, 2.2); the refiner has an aesthetic score as its last."""
        height, width = state.request.pixels.shape[:2]
        is_negative = state.guided and row == 0
        last = [2.5 if is_negative else 6.0] if self._scores else [height, width]
        time_ids = torch.tensor([[height, width, 0, 0, *last]], dtype=self._checkpoint.dtype)
        pooled = state.conditions[row].pooled
        assert pooled is not None, "SDXL's text encoders give a pooled prompt"
        steps = len(state.table)
        return {
            "pooled": pooled[None].expand(steps, -1),
            "time_ids": to_device(time_ids, self._checkpoint.device).expand(steps, -1),
        }

    def _guidance(self, state: DenoiseState) -> torch.Tensor | None:
        """The guidance scale as an input, for UNets distilled with it (Luo et al. 2023, 4.2)."""
        if self._guidance_width is None:
            return None
        scale = torch.tensor([state.request.guidance_scale - 1])
        embedding = self._checkpoint.pipeline.get_guidance_scale_embedding(scale, self._guidance_width)
        return torch.as_tensor(embedding).to(self._checkpoint.device, self._checkpoint.dtype)


def _text_encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    pairs = [(pipeline.tokenizer, pipeline.text_encoder)]
    if hasattr(pipeline, "tokenizer_2"):
        pairs.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]
