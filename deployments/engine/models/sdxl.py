"""Stable Diffusion XL and its refiner (Podell et al. 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from deployments.engine.models.prompts import PromptEmbedding, PromptEncoder
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.state import DenoiseState
from deployments.engine.transfers import to_device

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # diffusers' defaults


def _overflows(pipeline: Any) -> tuple[bool, bool]:
    unet_overflows, _ = StableDiffusion.kind.overflows(pipeline)
    return unet_overflows, bool(pipeline.vae.config.force_upcast)


class StableDiffusionXL(StableDiffusion):
    """The time embedding knows the pooled prompt and the sizes, so each row has its own."""

    kind = replace(
        StableDiffusion.kind,
        pipeline_class=StableDiffusionXLImg2ImgPipeline,
        class_name="StableDiffusionXL",
        file_prefix="conditioner.",
        needed=("vae", "unet", "scheduler", "tokenizer_2", "text_encoder_2"),
        optional=("tokenizer", "text_encoder"),  # which the refiner does not have
        unneeded={},
        overflows=_overflows,
    )

    @property
    def name(self) -> str:
        return "sdxl"

    def _tembs(self, state: DenoiseState, rows: list[PromptEmbedding]) -> list[torch.Tensor]:
        timesteps, guidance, steps = self._timesteps(state), self._embedded_guidance(state), len(state.table)
        tembs = []
        for i, row in enumerate(rows):
            assert row.pooled is not None, "SDXL's text encoders give a pooled prompt"
            time_ids = self._time_ids(state, is_negative=state.guided and i == 0).expand(steps, -1)
            pooled = row.pooled[None].expand(steps, -1)
            tembs.append(self.network.temb(timesteps, guidance=guidance, pooled=pooled, time_ids=time_ids))
        return tembs

    def _time_ids(self, state: DenoiseState, *, is_negative: bool) -> torch.Tensor:
        """Original size, crop and target size (section 2.2), (1, 6); the refiner has an aesthetic score as its last."""
        height, width = state.request.pixels.shape[:2]
        target: list[float] = [height, width]
        if self._pipeline.config.requires_aesthetics_score:
            target = [NEGATIVE_AESTHETIC_SCORE if is_negative else AESTHETIC_SCORE]
        return to_device(torch.tensor([[height, width, 0, 0, *target]], dtype=self.dtype), self.device)

    def _prompt_encoder(self) -> PromptEncoder:
        """Both text encoders; the refiner has only the second."""
        pipeline = self._pipeline
        pairs = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
        return PromptEncoder(
            [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None],
            self.network.encoder_kv,
            penultimate=True,
            zero_missing=bool(pipeline.config.force_zeros_for_empty_prompt),
            batch_invariant=self.reproducible,
        )
