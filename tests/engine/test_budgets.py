"""A step takes no longer than its budget, whatever its images' size, and memory that comes back is used again."""

from __future__ import annotations

import pytest

from deployments.engine.scheduler import ROWS_REGAINED, STEP_BUDGET_S, Scheduler
from deployments.engine.state import DenoiseState, StepBatch
from deployments.engine.step_times import NUM_LEAST
from tests.support.fakes import waiting

LARGE = 2048  # pixels
SHAPE = (LARGE // 8, LARGE // 8)


def running(count: int, size: int = LARGE, max_rows: int = 8) -> tuple[Scheduler, StepBatch]:
    """A scheduler whose requests are all in a step, and that step batch."""
    scheduler = Scheduler(max_rows)
    scheduler.add(waiting(f"{i}", steps=10_000, size=size) for i in range(count))
    while scheduler.waiting and scheduler.admit():
        pass
    batch = scheduler.select()
    assert batch is not None
    return scheduler, batch


def measure(scheduler: Scheduler, states: list[DenoiseState], seconds: float, steps: int = NUM_LEAST) -> None:
    for _ in range(steps):
        scheduler.charge(StepBatch(states, len(states)), seconds)


@pytest.mark.parametrize(("size", "cap"), [(64, 8), (512, 8), (768, 3), (1024, 2), (2048, 1)])
def test_first_steps_of_large_images_have_few_rows(size: int, cap: int) -> None:
    assert Scheduler(max_rows=8).cap((size // 8, size // 8)) == cap


def test_large_images_that_are_fast_get_all_rows() -> None:
    scheduler, batch = running(1)
    measure(scheduler, batch.states, 0.1)
    assert scheduler.cap(SHAPE) == 8


@pytest.mark.parametrize(("share", "cap"), [(0.1, 8), (0.3, 3), (0.6, 1), (5, 1)])
def test_step_has_no_more_rows_than_its_budget_has_time_for(share: float, cap: int) -> None:
    scheduler, batch = running(1, size=64)
    measure(scheduler, batch.states, share * STEP_BUDGET_S)
    assert scheduler.cap((8, 8)) == cap


@pytest.mark.parametrize(("size", "together"), [(64, 8), (512, 8), (1024, 2), (2048, 1)])
def test_newcomers_of_one_step_are_no_more_work_than_one_step(size: int, together: int) -> None:
    scheduler = Scheduler(max_rows=8)
    scheduler.add(waiting(f"{i}", size=size) for i in range(8))
    assert len(scheduler.admit()) == together


def test_newcomers_of_many_large_sizes_are_admitted_one_after_the_other() -> None:
    scheduler = Scheduler(max_rows=8)
    scheduler.add(waiting(f"{i}", size=LARGE + 64 * i) for i in range(4))
    assert [len(scheduler.admit()) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_cap_that_was_halved_rises_again_with_good_steps() -> None:
    scheduler, batch = running(8, size=64)
    scheduler.halve_cap(batch)
    assert scheduler.cap((8, 8)) == 4
    measure(scheduler, batch.states[:4], 0.0, round(1.1 / ROWS_REGAINED))
    assert scheduler.cap((8, 8)) == 5
    measure(scheduler, batch.states[:4], 0.0, round(9 / ROWS_REGAINED))
    assert scheduler.cap((8, 8)) == 8
