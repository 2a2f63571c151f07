"""The protocol of a backend, and the two backends that call a pipeline in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from benchmarks.backends.pipelines import Pipeline, shared
from deployments.engine.request import Img2ImgRequest, Pixels

MAX_WAIT_S = 0.05  # of the first request of a batch, for others
POLL_S = 0.002


class RequestBackend(Protocol):
    """`open` loads the model, `run` is called for many requests at once. `dtype` is known once it is open."""

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
        images: list[Pixels] = await loop.run_in_executor(self._thread, self._pipeline, [request])
        return images[0]

    async def close(self) -> None:
        self._thread.shutdown()


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Img2ImgRequest
    since: float
    image: asyncio.Future[Pixels]


class Batch:
    """The request that waits longest goes next, with waiting requests of equal settings.

    A pipeline call takes one strength, guidance and number of steps, so requests of other settings would get another
    image than they asked for. A batch that is not full waits until its first request has waited MAX_WAIT_S.
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
        image: asyncio.Future[Pixels] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, time.monotonic(), image))
        self._arrival.set()
        return await image

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
                images = await asyncio.to_thread(self._pipeline, [waiting.request for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    waiting.image.set_exception(error)
            else:
                for waiting, image in zip(batch, images, strict=True):
                    waiting.image.set_result(image)

    async def _collect(self) -> list[_Waiting]:
        first, size = self._waiting[0], self._batch_size
        while True:
            alike = [waiting for waiting in self._waiting if shared(waiting.request) == shared(first.request)]
            if len(alike) >= size or time.monotonic() - first.since >= MAX_WAIT_S:
                return alike[:size]
            await asyncio.sleep(POLL_S)
