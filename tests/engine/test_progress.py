"""Whoever watches a request receives the progress of every step, and slows nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from deployments.engine.async_engine import AsyncEngine
from deployments.engine.request import Img2ImgRequest, Progress
from tests.support.fakes import ask
from tests.support.gates import gated, soon, start


async def watch(engine: AsyncEngine, request: Img2ImgRequest) -> AsyncGenerator[Progress, None]:
    (future,) = engine.submit([request])
    async with aclosing(engine.events(request.request_id, future)) as events:
        async for progress in events:
            yield progress


async def test_progress_tells_the_place_in_line_then_every_step() -> None:
    async with gated(max_rows=1) as (engine, gate):
        others = [start(engine, ask(name, steps=1)) for name in ("first", "second")]
        await gate.reached()
        events = watch(engine, ask("third", steps=3))
        received = []
        for reading in (asyncio.create_task(anext(events)) for _ in range(4)):
            await asyncio.sleep(0)  # it is in line now
            gate.let_through()
            progress = await soon(reading)
            received.append((progress.place, progress.step, progress.num_steps))
        gate.open()
        assert [await soon(other) for other in others] == [1, 1]
    assert received == [(2, 0, 3), (1, 0, 3), (0, 1, 3), (0, 2, 3)]


async def test_first_progress_comes_within_one_step_of_admission() -> None:
    async with gated() as (engine, gate):
        events = watch(engine, ask("watched", steps=5))
        first = await soon(anext(events))
        assert (first.place, first.step, first.preview) in ((1, 0, None), (0, 0, None))
        assert await gate.reached() == ["watched"]  # which is in its first step, and not through
        gate.let_through()
        second = await soon(anext(events))
        assert second.step == 1
        assert second.preview is not None
        gate.open()


async def test_reader_who_reads_nothing_slows_nobody_and_then_gets_the_latest() -> None:
    async with gated() as (engine, gate):
        unread = watch(engine, ask("unread", steps=1000))
        await soon(anext(unread))
        other = start(engine, ask("other", steps=100))
        while "other" not in await gate.reached():
            gate.let_through()
        gate.let_through(150)
        assert await soon(other) == 100
        late = await soon(anext(unread))
        assert late.step >= 100
        gate.open()


async def test_reader_who_leaves_takes_the_request_along() -> None:
    async with gated() as (engine, gate):
        events = watch(engine, ask("left", steps=50))
        await soon(anext(events))
        await gate.reached()
        await events.aclose()
        gate.let_through()
        other = start(engine, ask("other"))
        gate.open()
        assert await soon(other) == 3
        assert engine.stats()["aborted"] == 1
