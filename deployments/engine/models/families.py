"""The families that the engine serves, by the class of diffusers' image-to-image pipeline."""

from __future__ import annotations

from typing import Any

from deployments.engine.models.checkpoint import load_checkpoint
from deployments.engine.models.sdxl import StableDiffusionXL
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.networks import CompilableFamily

FAMILIES: dict[type, type[StableDiffusion]] = {
    family.pipeline_class: family for family in (StableDiffusion, StableDiffusionXL)
}


def load_family(source: str, *, reproducible: bool = False, **options: Any) -> CompilableFamily:
    """Open a checkpoint (`load_checkpoint` has the options) as its family. Raises CheckpointError.

    `reproducible` makes results bitwise independent of batch composition, at the price of padding.
    """
    checkpoint = load_checkpoint(source, reproducible=reproducible, **options)
    return FAMILIES[type(checkpoint.pipeline)](checkpoint, reproducible=reproducible)
