"""The engine behind an event loop: every accepted request finishes, whoever leaves. Threads wait at gates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from deployments.engine.async_engine import AsyncEngine
from deployments.engine.engine import Engine
from deployments.engine.errors import EngineError, InvalidRequest, RequestAborted
from deployments.engine.request import Img2ImgRequest
from deployments.engine.state import DenoiseState
from tests.support.fakes import FakeRunner, ask
from tests.support.gates import PATIENCE_S, gated, serving, soon, start


async def test_request_comes_back_with_its_image() -> None:
    with serving() as engine:
        assert await soon(start(engine, ask("a", steps=4))) == 4


async def test_many_concurrent_requests_all_end() -> None:
    with serving(max_rows=7) as engine:
        requests = [ask(f"{i}", steps=1 + i % 9, guided=i % 3 == 0, size=64 + 8 * (i % 4)) for i in range(300)]
        steps = await asyncio.wait_for(asyncio.gather(*(start(engine, request) for request in requests)), PATIENCE_S)
        assert steps == [1 + i % 9 for i in range(300)]
        stats = engine.stats()
    assert (stats["finished"], stats["waiting"], stats["running"], stats["queued_steps"]) == (300, 0, 0, 0)


async def test_requests_from_many_threads_all_end() -> None:
    with serving() as engine:
        batches = await asyncio.gather(
            *(asyncio.to_thread(engine.submit, [ask(f"{i} {j}") for j in range(10)]) for i in range(8))
        )
        for future in [future for batch in batches for future in batch]:
            assert future.result(PATIENCE_S).num_denoise_steps == 3


async def test_requests_submitted_together_are_encoded_together() -> None:
    calls: list[list[str]] = []
    with serving(lambda verb, ids: calls.append(ids) if verb == "encode" else None) as engine:
        for future in engine.submit([ask(name) for name in "abc"]):
            future.result(PATIENCE_S)
    assert calls == [["a", "b", "c"]]


async def test_cancelling_the_waiter_frees_its_rows_at_the_next_step() -> None:
    async with gated(max_rows=1) as (engine, gate):
        leaving, staying = start(engine, ask("leaving", steps=2)), start(engine, ask("staying", steps=3))
        assert await gate.reached() == ["leaving"]
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.let_through()
        assert await gate.reached() == ["staying"]
        gate.open()
        assert await soon(staying) == 3
        assert (engine.stats()["aborted"], engine.stats()["finished"]) == (1, 1)


async def test_cancelling_one_that_still_waits_leaves_the_running_alone() -> None:
    async with gated(max_rows=1) as (engine, gate):
        running, waiting = start(engine, ask("running", steps=3)), start(engine, ask("waiting"))
        await gate.reached()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        assert await soon(running) == 3
    assert {name for ids in gate.seen for name in ids} == {"running"}


async def test_aborted_request_ends_in_request_aborted_and_aborting_again_is_harmless() -> None:
    async with gated() as (engine, gate):
        task, other = start(engine, ask("a", steps=9)), start(engine, ask("b", steps=9))
        await gate.reached()
        for request_id in ("a", "a", "never here"):
            engine.abort(request_id)
        gate.open()
        with pytest.raises(RequestAborted, match="aborted"):
            await soon(task)
        assert await soon(other) == 9
        engine.abort("b")
        assert engine.stats()["aborted"] == 1


async def test_request_id_in_use_is_refused_and_the_first_goes_on() -> None:
    async with gated() as (engine, gate):
        first = start(engine, ask("same", steps=5))
        await gate.reached()
        with pytest.raises(EngineError, match="request id same is in use"):
            await soon(start(engine, ask("same", steps=2)))
        gate.open()
        assert await soon(first) == 5


async def test_duplicate_that_is_cancelled_does_not_take_the_first_with_it() -> None:
    async with gated() as (engine, gate):
        first = start(engine, ask("same", steps=5))
        await gate.reached()
        second = start(engine, ask("same", steps=2))
        await asyncio.sleep(0)  # it has submitted, and is about to learn of its refusal
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        gate.open()
        assert await soon(first) == 5


async def test_request_id_is_free_again_once_its_request_ended() -> None:
    with serving() as engine:
        assert [await soon(start(engine, ask("same", steps=steps))) for steps in (2, 3)] == [2, 3]


class Picky(FakeRunner):
    """Takes no request of more than ten steps."""

    def prepare(self, request: Img2ImgRequest) -> DenoiseState:
        if request.num_denoise_steps > 10:
            raise InvalidRequest("too many", "num_inference_steps")
        return super().prepare(request)


async def test_invalid_request_fails_at_once_and_alone() -> None:
    engine = AsyncEngine(Engine(Picky(), max_rows=8))
    good, bad, also_good = engine.submit([ask("a"), ask("b", steps=11), ask("c")])
    with pytest.raises(InvalidRequest, match="too many"):
        bad.result(0)
    assert good.result(PATIENCE_S).num_denoise_steps == also_good.result(PATIENCE_S).num_denoise_steps == 3
    engine.close()


async def test_failed_request_raises_its_own_error() -> None:
    def trouble(verb: str, ids: list[str]) -> None:
        if verb == "denoise" and "bad" in ids:
            raise ValueError("of its own")

    with serving(trouble) as engine:
        good, bad = start(engine, ask("good")), start(engine, ask("bad"))
        with pytest.raises(ValueError, match="of its own"):
            await soon(bad)
        assert await soon(good) == 3
        engine.check_health()


async def test_closing_ends_what_is_unfinished_at_the_next_step() -> None:
    async with gated(max_rows=1) as (engine, gate):
        running, waiting = start(engine, ask("running")), start(engine, ask("waiting"))
        await gate.reached()
        engine.close(timeout_s=0)  # does not wait for the step that the thread is in
        gate.let_through()
        for task in (running, waiting):
            with pytest.raises(RequestAborted, match="stopped before"):
                await soon(task)
        assert gate.seen == [["running"]]


async def test_request_after_close_is_refused_at_once() -> None:
    with serving() as engine:
        engine.close()
        (future,) = engine.submit([ask("late")])
        with pytest.raises(RequestAborted, match="shutting down"):
            future.result(0)


async def test_closing_twice_is_harmless_and_a_closed_engine_is_not_ill() -> None:
    with serving() as engine:
        engine.close()
        engine.close()
        engine.check_health()


class Collapse(BaseException):
    """What no `except Exception` holds back: the thread dies of it."""


async def test_dying_thread_fails_everyone_and_is_reported() -> None:
    dying = threading.Event()

    def trouble(verb: str, ids: list[str]) -> None:
        if verb == "denoise":
            assert dying.wait(PATIENCE_S)
            raise Collapse("of all things")

    with serving(trouble, max_rows=1) as engine:
        engine.check_health()
        futures = engine.submit([ask("running"), ask("waiting")])
        dying.set()
        for future in futures:
            with pytest.raises(RequestAborted, match="stopped before"):
                future.result(PATIENCE_S)
        engine._thread.join(PATIENCE_S)
        with pytest.raises(EngineError, match="thread is dead: Collapse"):
            engine.check_health()
        (late,) = engine.submit([ask("late")])
        with pytest.raises(RequestAborted, match="of all things"):
            late.result(0)


async def test_step_that_takes_too_long_is_reported_until_it_is_over() -> None:
    async with gated(stuck_after_s=0.0) as (engine, gate):
        engine.check_health()
        task = start(engine, ask("a", steps=1))
        await gate.reached()
        with pytest.raises(EngineError, match="in one step for over 0 s"):
            engine.check_health()
        gate.open()
        assert await soon(task) == 1
        engine.check_health()


async def test_long_step_is_healthy_while_the_runners_calls_end() -> None:
    async with gated() as (engine, gate):
        engine.submit([ask("a")])
        await gate.reached()
        assert engine._busy_since is not None
        engine._busy_since -= 10_000
        engine.check_health()
        engine._engine.call_started -= 10_000
        with pytest.raises(EngineError, match="in one step for over 600 s"):
            engine.check_health()


async def test_patient_engine_takes_a_long_step_for_healthy() -> None:
    async with gated() as (engine, gate):
        engine.submit([ask("a")])
        await gate.reached()
        engine.check_health()


async def test_stats_tell_who_is_here_while_a_step_runs() -> None:
    async with gated(max_rows=1) as (engine, gate):
        tasks = [start(engine, ask(name, steps=4)) for name in "ab"]
        await gate.reached()
        gate.let_through()
        await gate.reached()
        tasks.append(start(engine, ask("c", steps=4)))
        await asyncio.sleep(0)
        stats = engine.stats()
        assert {name: stats[name] for name in ("running", "waiting", "steps", "queued_steps", "finished")} == {
            "running": 1,
            "waiting": 2,  # one of them has only just come
            "steps": 1,
            "queued_steps": 3 + 4,
            "finished": 0,
        }
        gate.open()
        assert await asyncio.gather(*map(soon, tasks)) == [4, 4, 4]


@pytest.mark.parametrize("walk_away", [asyncio.Task.cancel, lambda task: None])
async def test_idle_engine_wakes_for_the_next_request(walk_away: Callable[[asyncio.Task[int]], object]) -> None:
    with serving() as engine:
        first = start(engine, ask("first"))
        await asyncio.sleep(0)
        walk_away(first)
        await asyncio.gather(first, return_exceptions=True)
        assert await soon(start(engine, ask("second"))) == 3
