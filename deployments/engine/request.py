"""What was asked (frozen) and what came of it. No torch here: these cross process borders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Sampler = Literal["dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "ddim", "lcm"]
Priority = Literal["interactive", "folder"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width, 3), RGB
Mask = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width)
Loras = tuple[tuple[str, float], ...]  # names of adapters and their weights


@dataclass(frozen=True, slots=True, eq=False)
class Img2ImgRequest:
    """One image to make: the words are diffusers'.

    `pixels` has both sides a multiple of the model's VAE factor; `strength` is in [0, 1] and
    `int(num_inference_steps * strength)` steps are run, at least one; guidance is off at `guidance_scale <= 1`;
    `negative_prompt=None` is diffusers' None (SDXL zeroes the embedding), which differs from "". Where `mask` is given,
    (height, width), the picture changes only where it is 128 or more. `loras` are adapters of the checkpoint.
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
        """The steps actually run: the schedule's last `int(num_inference_steps * strength)`."""
        return min(int(self.num_inference_steps * self.strength), self.num_inference_steps)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a request spent: waiting for a place, encoding, denoising (its steps' wall time), decoding."""

    queued_s: float = 0.0
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How far a request is: it is the `place`-th in line (0: it runs) and has done `step` of `num_steps` steps.

    `preview` is what the picture is going to be, one pixel for each of the latents; None before the first step.
    """

    place: int
    step: int
    num_steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Img2ImgOutput:
    """The finished image of one request; `truncated` is the part of the prompts CLIP could not see ("" if none)."""

    request_id: str
    pixels: Pixels
    num_denoise_steps: int
    truncated: str = ""
    timings: Timings = field(default_factory=Timings)
