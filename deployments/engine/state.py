"""How far one request has come: everything about it that changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.engine.request import Loras

if TYPE_CHECKING:
    import torch

    from deployments.engine.models.vae import Decoded
    from deployments.engine.request import Img2ImgRequest, Pixels
    from deployments.engine.sampling import StepTable

Lane = tuple[int, int, Loras]  # latent height and width, adapters


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What a prompt steers UNet rows with: `context`, keys and values (tokens, all), and SDXL's `pooled` (width,)."""

    context: torch.Tensor
    pooled: torch.Tensor | None = None
    truncated: str = ""


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
    def lane(self) -> Lane:
        """What requests must have in common to share a step batch."""
        return *self.latent_shape, self.request.loras

    @property
    def steps_left(self) -> int:
        return len(self.table) - self.step_index

    @property
    def is_denoised(self) -> bool:
        return self.steps_left == 0
