"""The shape of a roofline record."""

from __future__ import annotations

from typing import Literal

from benchmarks.backends.spec import Device
from benchmarks.publishing import PublishedRecord
from benchmarks.spread import Spread, spread
from deployments.config import Strict

Dtype = Literal["float32", "bfloat16", "float16"]


class Roofline(Strict):
    """One job in one dtype. Rates are per second; `engine_s` is seconds per image of each round of the engine.

    `compute_s` is the image's FLOPs over the best rate of any shape. `weights_s` is reading the UNet's weights once
    a step, shared by the clients. The roofline is the larger of the two. Only a network rewritten to multiply less,
    as deployments/engine/accel/cpu/upsampling.py does, can be faster.
    """

    size: int
    dtype: Dtype
    denoise_steps: int
    rows: int
    work: dict[str, int]
    flop_rates: dict[str, float]
    bytes_rate: float
    compute_s: float
    weights_s: float
    engine_s: tuple[float, ...]

    @property
    def least_s(self) -> float:
        """The least seconds per image that the device allows."""
        return max(self.compute_s, self.weights_s)

    @property
    def engine(self) -> Spread | None:
        """The engine's seconds per image over the rounds; None if it was not run."""
        return spread(self.engine_s) if self.engine_s else None


class RooflineRecord(PublishedRecord):
    """A whole run. A `load_average` well above 0 at its start makes the peaks too low, and the ratios with them."""

    arch: str
    device: Device
    num_inference_steps: int
    strength: float
    guidance_scale: float
    clients: int
    images: int
    rounds: int
    load_average: float
    rooflines: tuple[Roofline, ...] = ()
