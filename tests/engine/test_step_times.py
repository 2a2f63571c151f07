"""The measured curve of step times, and the number of rows beyond which more of them only make steps longer."""

from __future__ import annotations

import pytest

from deployments.engine.scheduler import Scheduler
from deployments.engine.state import StepBatch
from deployments.engine.step_times import NUM_LEAST, NUM_SHAPES, NUM_STEPS, StepTimes
from tests.support.fakes import waiting

SHAPE = (64, 64)


def curve(seconds: dict[int, float]) -> StepTimes:
    times = StepTimes()
    for rows, took in seconds.items():
        observe(times, rows, took, NUM_LEAST)
    return times


def observe(times: StepTimes, rows: int, seconds: float, steps: int) -> None:
    for _ in range(steps):
        times.observe(SHAPE, rows, seconds)


@pytest.mark.parametrize(
    ("seconds", "knee"),
    [
        ({}, None),
        ({2: 0.2}, None),
        ({1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}, 1),  # a row costs the same in any batch
        ({1: 0.1, 2: 0.11, 4: 0.13, 8: 0.2}, None),  # more are better as far as is known
        ({1: 0.1, 2: 0.11, 4: 0.12, 8: 0.24, 16: 0.5}, 4),
        ({2: 0.07, 3: 0.13}, None),  # an odd row that waits for its turn costs more, and four may cost less
        ({2: 0.07, 3: 0.13, 4: 0.15}, 2),
        ({2: 0.5, 4: 0.6, 6: 0.84, 8: 1.12}, 4),  # at 4 a row costs 0.15, at 6 and 8 0.14: within a tenth
    ],
)
def test_knee_is_where_more_rows_stop_paying(seconds: dict[int, float], knee: int | None) -> None:
    assert curve(seconds).knee(SHAPE) == knee


def test_one_slow_step_does_not_move_the_curve() -> None:
    times = curve({1: 0.1, 2: 0.12})
    observe(times, 2, 9.0, 1)
    assert times.curves[SHAPE] == {1: 0.1, 2: 0.12}


def test_first_steps_of_a_number_of_rows_which_are_slow_do_not_forbid_it() -> None:
    times = curve({2: 0.2})
    observe(times, 4, 9.0, NUM_LEAST - 2)
    observe(times, 4, 0.3, 1)
    assert times.knee(SHAPE) is None
    observe(times, 4, 0.3, 1)
    assert times.curves[SHAPE] == {2: 0.2, 4: 0.3}
    assert times.knee(SHAPE) is None


def test_what_has_not_been_tried_for_long_is_tried_again() -> None:
    times = curve({4: 9.0, 2: 0.2, 1: 0.1})
    assert times.knee(SHAPE) == 1
    observe(times, 1, 0.1, NUM_STEPS - 2 * NUM_LEAST)
    assert times.curves[SHAPE] == {1: 0.1, 2: 0.2}
    assert times.knee(SHAPE) is None


def test_curve_of_another_backend_starts_anew() -> None:
    times = curve({1: 0.1, 2: 0.2, 4: 0.4})
    assert times.knee(SHAPE) == 1
    times.forget()
    assert times.curves == {}
    assert times.knee(SHAPE) is None


def test_only_the_shapes_used_last_are_kept() -> None:
    times = curve({1: 0.1})
    for height in range(NUM_SHAPES - 1):
        times.observe((height, 8), 1, 0.1)
    times.observe(SHAPE, 1, 0.1)
    times.observe((99, 99), 1, 0.1)
    assert len(times.curves) == NUM_SHAPES
    assert SHAPE in times.curves
    assert (0, 8) not in times.curves


def test_step_batch_has_no_more_rows_than_pay() -> None:
    scheduler = Scheduler(max_rows=8)
    scheduler.add(waiting(f"{i}", steps=9) for i in range(8))
    scheduler.admit()
    everyone = scheduler.select()
    assert everyone is not None
    for size, seconds in ((8, 0.8), (2, 0.2), (4, 0.4)) * NUM_LEAST:
        scheduler.charge(StepBatch(everyone.states[:size], size), seconds)
    assert scheduler.cap((8, 8)) == 2
    batch = scheduler.select()
    assert batch is not None
    assert len(batch.states) == 2
    assert scheduler.cap((16, 16)) == 8
