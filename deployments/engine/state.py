"""How far one request has come, and the step batch that advances several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from deployments.engine.request import Img2ImgRequest, Loras, Pixels

if TYPE_CHECKING:
    import torch

    from deployments.engine.sampling import StepTable

LatentShape = tuple[int, int]  # height, width
BatchKey = tuple[LatentShape, Loras, Hashable]


class RowCondition(Protocol):
    """What steers one row of the denoiser; computed once a request."""

    @property
    def key(self) -> Hashable:
        """Rows share a forward if and only if their keys are equal: token counts, shapes, controls."""

    def at(self, step: int) -> tuple[torch.Tensor, ...]:
        """The denoiser's inputs at a step, without the row axis."""


@dataclass(frozen=True, slots=True, eq=False)
class InpaintSource:
    """The source of a masked request: `image` and `noise`, (channels, h, w), stay where `mask` (1, h, w) is 0."""

    image: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def blend(self, latents: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """The latents where the mask is 1, and the source at this noise level where it is 0.

        diffusers' StableDiffusionInpaintPipeline does the same after each step for UNets of four input channels.
        """
        source = alpha * self.image + sigma * self.noise
        return (1 - self.mask) * source + self.mask * latents


@dataclass(slots=True, eq=False)
class DenoiseState:
    """The progress of one request. The family and the runner fill in the tensors.

    `latents` and `history` are float32 (channels, h, w). `conditions` are [unconditional, conditional], or one alone.
    `truncated` is the part of the prompts that the text encoders could not see.
    """

    request: Img2ImgRequest
    table: StepTable
    latent_shape: LatentShape
    guided: bool
    image_key: bytes = b""
    step_index: int = 0
    latents: torch.Tensor | None = None
    history: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    generator: torch.Generator | None = None
    conditions: list[RowCondition] = field(default_factory=list)
    truncated: str = ""
    source: InpaintSource | None = None
    fetch: Callable[[], Pixels] | None = None  # waits for the decoded image
    pixels: Pixels | None = None
    error: Exception | None = None
    due: int = 0  # when it should be done, in the scheduler's measure of work
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_started: float = 0.0

    @property
    def num_rows(self) -> int:
        """Denoiser rows that one step of this request takes."""
        return 2 if self.guided else 1

    @property
    def batch_key(self) -> BatchKey:
        """Requests with equal keys share a step batch. The last part is None until the request is encoded."""
        return self.latent_shape, self.request.loras, self.conditions[-1].key if self.conditions else None

    @property
    def steps_left(self) -> int:
        return len(self.table) - self.step_index


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """States of one batch key that advance together by one step, with at most `max_rows` rows in one forward."""

    states: list[DenoiseState]
    max_rows: int

    @property
    def key(self) -> BatchKey:
        return self.states[0].batch_key

    @property
    def num_rows(self) -> int:
        return sum(state.num_rows for state in self.states)


def by_shape(states: Iterable[DenoiseState]) -> Iterator[list[DenoiseState]]:
    """The states in groups of one latent shape."""
    shape = attrgetter("latent_shape")
    return (list(alike) for _, alike in groupby(sorted(states, key=shape), key=shape))
