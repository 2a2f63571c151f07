"""This project's engine in this process.

No other module of the benchmarks looks into an engine: they build one, send requests and ask for dtypes. Only
gpu_round/layers.py has a part of it, the network that it times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.backends.spec import BackendSpec
from deployments.config import ModelConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.engine import Engine
from deployments.engine.models.vae import VaeCodec
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.replica.build import build_engine

POLL_S = 0.1


def describe(engine: Engine) -> dict[str, Any]:
    """The engine's `dtype`, its `backend`, and whether it is `compiling` another one."""
    described = engine.describe()
    return {"dtype": described["dtype"], "backend": described["form"], "compiling": described["compiling"]}


def step_times(engine: Engine, size: int) -> dict[int, float]:
    """Median seconds of the latest steps of square images of `size` pixels, by their rows."""
    curves = {(curve["width"], curve["height"]): curve["seconds"] for curve in engine.describe()["step_times"]}
    found: dict[int, float] = curves.get((size, size), {})
    return found


@torch.inference_mode()
def reconstruct(engine: Engine, images: Sequence[Pixels]) -> list[Pixels]:
    """Images of one size after the VAE alone: encoded and decoded."""
    assert isinstance(engine.runner, Runner)
    codec, generator = engine.runner.family.codec, torch.Generator("cpu").manual_seed(0)
    assert isinstance(codec, VaeCodec)
    moments = codec.moments(images, [codec.image_key(image) for image in images])
    return [fetch() for fetch in codec.decode(torch.stack([codec.sample(row, generator) for row in moments]))]


class EngineBackend:
    """The engine of a configured model. It is open once everything is compiled."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec

    async def open(self) -> None:
        self._inner = build_engine(ModelConfig(**self._spec.model_args))
        while describe(self._inner)["compiling"]:  # it could serve meanwhile, but that is not what is measured
            await asyncio.sleep(POLL_S)
        self.dtype: str = describe(self._inner)["dtype"]
        self._engine = AsyncEngine(self._inner)

    async def run(self, request: Img2ImgRequest) -> Pixels:
        output = await self._engine.generate(request)
        assert output.num_denoise_steps == request.num_denoise_steps, "the engine ran another number of steps"
        return output.pixels

    def step_times(self) -> dict[int, float]:
        """As the function of this name, for the size of the spec."""
        return step_times(self._inner, self._spec.size)

    async def close(self) -> None:
        self._engine.close()
