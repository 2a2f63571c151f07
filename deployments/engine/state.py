"""How far one request has come: everything about it that changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.engine.request import Loras

if TYPE_CHECKING:
    import torch

    from deployments.engine.request import Img2ImgRequest, Pixels
    from deployments.engine.sampling import StepTable
    from deployments.engine.vae import Decoded

Lane = tuple[int, int, Loras]  # latent height and width, adapters


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What a prompt steers UNet rows with: `context`, keys and values (tokens, all), and SDXL's `pooled` (width,).

    `is_zero` says that SDXL embeds a missing prompt: all of it is zeros.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None = None
    truncated: str = ""
    is_zero: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """One request's UNet rows, one after the other, which differ in their prompts alone.

    `lacks_negative`: the first of two has SDXL's zeros for a prompt.
    """

    count: int
    lacks_negative: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class KeptSource:
    """What a masked request keeps of its source: `image` and `noise`, (channels, h, w), where `mask` (1, h, w) is 0."""

    image: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def put_back(self, latents: torch.Tensor, signal: float, noise_scale: float) -> torch.Tensor:
        """The latents where the mask is 1, and the source, noised to this level, where it is 0.

        As diffusers' StableDiffusionInpaintPipeline does it after each step for UNets of four input channels.
        """
        source = signal * self.image + noise_scale * self.noise
        return (1 - self.mask) * source + self.mask * latents


@dataclass(slots=True, eq=False)
class DenoiseState:
    """The progress of one request. The runner fills in the tensors: latents and history, float32 (channels, h, w)."""

    request: Img2ImgRequest
    table: StepTable
    latent_shape: tuple[int, int]
    guided: bool
    picture_key: bytes = b""
    step_index: int = 0
    latents: torch.Tensor | None = None
    history: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    generator: torch.Generator | None = None
    conditions: list[Condition] = field(default_factory=list)  # [unconditional, conditional], or one alone
    times: list[torch.Tensor] = field(default_factory=list)  # (steps, all ResNets' channels), for each condition
    kept: KeptSource | None = None
    decoded: Decoded | None = None
    pixels: Pixels | None = None
    error: Exception | None = None
    due: int = 0  # when it should be done, in the scheduler's measure of work
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_began: float = 0.0
    decode_s: float = 0.0

    @property
    def rows(self) -> int:
        """UNet rows that one step of this request takes."""
        return 2 if self.guided else 1

    @property
    def lacks_negative(self) -> bool:
        """Whether it is guided away from SDXL's zeros."""
        return self.guided and self.conditions[0].is_zero

    @property
    def lane(self) -> Lane:
        """What requests must have in common to share a step batch."""
        return *self.latent_shape, self.request.loras

    @property
    def steps_left(self) -> int:
        return len(self.table) - self.step_index

    @property
    def is_denoised(self) -> bool:
        return self.steps_left == 0


def row_chunks(states: Sequence[DenoiseState], size: int) -> Iterator[list[Rows]]:
    """The requests' rows, up to `size` together. One that has more is cut into single rows."""
    chunk: list[Rows] = []
    for state in states:
        whole = Rows(state.rows, state.lacks_negative)
        for rows in [whole] if whole.count <= size else [Rows(1)] * whole.count:
            if sum(earlier.count for earlier in chunk) + rows.count > size:
                yield chunk
                chunk = []
            chunk.append(rows)
    yield chunk
