"""An engine behind an event loop, whose steps wait at a gate until a test lets them through."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from deployments.engine.async_engine import AsyncEngine
from deployments.engine.engine import Engine
from deployments.engine.request import Img2ImgRequest
from tests.support.fakes import FakeRunner, Trouble

PATIENCE_S = 30  # of a test that would otherwise hang
T = TypeVar("T")


class Gate:
    """Trouble that stops every denoise step at its start until it is let through."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self.seen: list[list[str]] = []

    def __call__(self, verb: str, ids: list[str]) -> None:
        if verb == "denoise":
            self.seen.append(ids)
            self._arrived.release()
            assert self._steps.acquire(timeout=PATIENCE_S)

    def let_through(self, steps: int = 1) -> None:
        self._steps.release(steps)

    def open(self) -> None:
        self.let_through(1_000_000)

    async def reached(self) -> list[str]:
        """Wait until the engine stands at the next step; who is in it."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=PATIENCE_S)
        return self.seen[-1]


@contextmanager
def serving(trouble: Trouble = lambda verb, ids: None, *, max_rows: int = 8, **more: float) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(Engine(FakeRunner(trouble), max_rows=max_rows), **more)
    try:
        yield engine
    finally:
        if isinstance(trouble, Gate):
            trouble.open()
        engine.close(PATIENCE_S)


@asynccontextmanager
async def gated(*, max_rows: int = 8, **more: float) -> AsyncIterator[tuple[AsyncEngine, Gate]]:
    gate = Gate()
    with serving(gate, max_rows=max_rows, **more) as engine:
        yield engine, gate


def start(engine: AsyncEngine, request: Img2ImgRequest) -> asyncio.Task[int]:
    """The number of steps that the request ran, once it is done."""

    async def steps() -> int:
        return int((await engine.generate(request)).pixels[0, 0, 0])

    return asyncio.create_task(steps())


async def soon(result: Awaitable[T]) -> T:
    return await asyncio.wait_for(result, PATIENCE_S)
