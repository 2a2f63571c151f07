"""The ways from requests to pictures that are compared, each behind the same three methods; here those in process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from benchmarks.records import Job
from benchmarks.stock import Pipeline, shared
from deployments.config import ModelConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.replica.build import build_engine

MAX_WAIT_S = 0.05  # that the first request of a batch waits for others
POLL_S = 0.002
COMPILER = "compiler"  # the thread in which an engine's networks are compiled, while it serves uncompiled


class WayRunner(Protocol):
    """One way: `open` loads the model, `run` is called for many requests at once. `dtype` is known once open."""

    dtype: str

    async def open(self) -> None: ...
    async def run(self, request: Img2ImgRequest) -> Pixels: ...
    async def close(self) -> None: ...


class OneByOne:
    """First come, first served, one pipeline call each."""

    def __init__(self, open_pipeline: Callable[[], Pipeline]) -> None:
        self._open_pipeline = open_pipeline
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def open(self) -> None:
        self._pipeline = self._open_pipeline()
        self.dtype = self._pipeline.dtype

    async def run(self, request: Img2ImgRequest) -> Pixels:
        loop = asyncio.get_running_loop()
        pictures: list[Pixels] = await loop.run_in_executor(self._thread, self._pipeline, [request])
        return pictures[0]

    async def close(self) -> None:
        self._thread.shutdown()


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Img2ImgRequest
    since: float
    picture: asyncio.Future[Pixels]


class Batch:
    """The request that waits longest goes next, with those waiting whose settings agree with its own.

    A pipeline call takes one strength, guidance and number of steps, so others would not get the picture they asked
    for. A batch that is not full waits until its first request has waited MAX_WAIT_S.
    """

    def __init__(self, open_pipeline: Callable[[], Pipeline], batch_size: int) -> None:
        self._open_pipeline = open_pipeline
        self._batch_size = batch_size
        self._waiting: list[_Waiting] = []
        self._arrival = asyncio.Event()

    async def open(self) -> None:
        self._pipeline = self._open_pipeline()
        self.dtype = self._pipeline.dtype
        self._worker = asyncio.create_task(self._work())

    async def run(self, request: Img2ImgRequest) -> Pixels:
        picture: asyncio.Future[Pixels] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, time.monotonic(), picture))
        self._arrival.set()
        return await picture

    async def close(self) -> None:
        self._worker.cancel()

    async def _work(self) -> None:
        while True:
            await self._arrival.wait()
            batch = await self._collect()
            self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
            if not self._waiting:
                self._arrival.clear()
            try:
                pictures = await asyncio.to_thread(self._pipeline, [waiting.request for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    waiting.picture.set_exception(error)
            else:
                for waiting, picture in zip(batch, pictures, strict=True):
                    waiting.picture.set_result(picture)

    async def _collect(self) -> list[_Waiting]:
        first, size = self._waiting[0], self._batch_size
        while True:
            alike = [waiting for waiting in self._waiting if shared(waiting.request) == shared(first.request)]
            if len(alike) >= size or time.monotonic() - first.since >= MAX_WAIT_S:
                return alike[:size]
            await asyncio.sleep(POLL_S)


class EngineWay:
    """This project's engine, in this process."""

    def __init__(self, job: Job) -> None:
        self._config = ModelConfig(**job.model_args)

    async def open(self) -> None:
        engine = build_engine(self._config)
        for compiler in (thread for thread in threading.enumerate() if thread.name == COMPILER):
            await asyncio.to_thread(compiler.join)
        assert isinstance(engine.runner, Runner)
        self.dtype = str(engine.runner.checkpoint.dtype).removeprefix("torch.")
        self._times, self._factor = engine.scheduler.times, engine.runner.codec.factor
        self._engine = AsyncEngine(engine)

    async def run(self, request: Img2ImgRequest) -> Pixels:
        output = await self._engine.generate(request)
        assert output.num_denoise_steps == request.num_denoise_steps, "the engine ran another number of steps"
        return output.pixels

    def step_times(self, size: int) -> dict[int, float]:
        """Median seconds of the latest steps of square pictures of this size, by their rows."""
        side = size // self._factor
        return self._times.curves.get((side, side), {})

    async def close(self) -> None:
        self._engine.close()
