"""The families that the engine serves, by the kind of checkpoint that each opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deployments.engine.models.checkpoint import CheckpointKind, load_checkpoint
from deployments.engine.models.sdxl import StableDiffusionXL
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.networks import CompilableFamily

FAMILIES: dict[CheckpointKind, Callable[..., CompilableFamily]] = {
    StableDiffusion.kind: StableDiffusion,
    StableDiffusionXL.kind: StableDiffusionXL,
}


def load_family(source: str, *, reproducible: bool = False, **options: Any) -> CompilableFamily:
    """Open a checkpoint (`load_checkpoint` has the options) as its family. Raises CheckpointError.

    `reproducible` makes results bitwise independent of batch composition, at the price of padding.
    """
    checkpoint = load_checkpoint(source, FAMILIES, reproducible=reproducible, **options)
    return FAMILIES[checkpoint.kind](checkpoint, reproducible=reproducible)
