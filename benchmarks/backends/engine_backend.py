"""This project's engine in this process. The only module of the benchmarks that knows the engine's inside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.backends.spec import BackendSpec
from deployments.config import ModelConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.engine import Engine
from deployments.engine.models.scaled_fp16 import keep_in_range
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.replica.build import build_engine

POLL_S = 0.1


def describe(engine: Engine) -> dict[str, Any]:
    """What the engine says of itself: `dtype`, `backend` and whether it is `compiling` another one."""
    runner = _runner(engine)
    dtype = str(runner.checkpoint.dtype).removeprefix("torch.")
    return {"dtype": dtype, "backend": runner.form, "compiling": runner.compiling}


def step_times(engine: Engine, size: int) -> dict[int, float]:
    """Median seconds of the latest steps of square images of `size` pixels, by their rows."""
    side = size // _runner(engine).codec.factor
    return engine.scheduler.times.curves.get((side, side), {})


@torch.inference_mode()
def reconstruct(engine: Engine, images: Sequence[Pixels]) -> list[Pixels]:
    """Images of one size as the VAE alone gives them back."""
    codec, generator = _runner(engine).codec, torch.Generator("cpu").manual_seed(0)
    latents = [codec.sample(moments, generator) for moments in codec.encode(images)]
    return [decoded.pixels() for decoded in codec.decode(torch.stack(latents))]


def to_scaled_fp16(network: nn.Module) -> None:
    """Convert a network in place, as the engine does with VAEs whose values outgrow float16."""
    keep_in_range(network)


def _runner(engine: Engine) -> Runner:
    assert isinstance(engine.runner, Runner)
    return engine.runner


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
