"""A request (frozen), its progress and its result. No torch here: these cross process borders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Sampler = Literal["dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "ddim", "lcm"]
Priority = Literal["interactive", "folder"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width, 3), RGB
Mask = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width)
MASK_THRESHOLD = 128  # of 255
Loras = tuple[tuple[str, float], ...]  # LoRA names and weights


@dataclass(frozen=True, slots=True, eq=False)
class Img2ImgRequest:
    """One image to make, in diffusers' words.

    Both sides of `pixels` are multiples of the family's size multiple. `strength` is in [0, 1];
    `int(num_inference_steps * strength)` steps are run, at least one. Guidance is off at `guidance_scale <= 1`.
    `negative_prompt=None` is diffusers' None (SDXL embeds zeros), which differs from "". With a `mask`, (height,
    width), the image changes only where the mask is 128 or more. `loras` name LoRAs of the checkpoint.
    """

    request_id: str
    pixels: Pixels
    prompt: str
    negative_prompt: str | None = None
    strength: float = 0.3
    guidance_scale: float = 12.0
    num_inference_steps: int = 20
    seed: int = 0
    sampler: Sampler = "dpmpp_2m"
    priority: Priority = "interactive"
    mask: Mask | None = None
    loras: Loras = ()

    @property
    def num_denoise_steps(self) -> int:
        """The steps that are run: the schedule's last `int(num_inference_steps * strength)`."""
        return min(int(self.num_inference_steps * self.strength), self.num_inference_steps)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a request waited to be admitted, was encoded, denoised (wall time of its steps) and decoded."""

    queued_s: float = 0.0
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How far a request is: its `place` in the queue (0: it runs) and the completed `step` of `num_steps`.

    `preview` is what the last step expects the image to be, one pixel for each latent; None before the first step.
    """

    place: int
    step: int
    num_steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Img2ImgOutput:
    """The finished image of one request; `truncated` is the part of the prompts beyond CLIP's window ("" if none)."""

    request_id: str
    pixels: Pixels
    num_denoise_steps: int
    truncated: str = ""
    timings: Timings = field(default_factory=Timings)
