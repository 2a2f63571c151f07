"""Which recordings a batch is made of, and that it comes out as it would without them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from deployments.engine.accel.cuda.device_lock import DEVICE, Gate
from deployments.engine.accel.cuda.graphs import Counters, Graphed, Limits, cheapest
from tests.support.replays import Recaller

ROW = torch.zeros(0, 3, 4)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def batch(rows: int, *shape: int) -> torch.Tensor:
    return torch.arange(1.0, rows + 1).view(-1, 1, 1).expand(rows, *(shape or (3, 4))).clone()


class Bench:
    """A doubling network, recorded, with what it asks for and how often its fallback ran."""

    def __init__(self, buckets: tuple[int, ...] = (1, 2, 4, 8), patience: int = 2, most_shapes: int = 2) -> None:
        self.recorder, self.counters = Recaller(), Counters()
        self.asked: list[Callable[[], object]] = []
        limits = Limits(buckets, patience, most_shapes)
        self.graphed = Graphed(double, double, self.recorder, limits, self.counters, self.asked.append)


@pytest.mark.parametrize("rows", range(1, 20))
def test_rows_come_out_as_without_recordings(rows: int) -> None:
    bench = Bench()
    bench.graphed.record([ROW])
    for x in (batch(rows), -batch(rows)):
        assert torch.equal(bench.graphed(x), double(x))
    assert bench.counters.fallbacks == 0


def test_rows_of_an_earlier_batch_do_not_show() -> None:
    bench = Bench(buckets=(8,))
    bench.graphed.record([ROW])
    bench.graphed(torch.full((8, 3, 4), torch.nan))
    assert torch.equal(bench.graphed(batch(5)), double(batch(5)))


def test_output_outlives_the_next_replay() -> None:
    bench = Bench()
    bench.graphed.record([ROW])
    first = bench.graphed(batch(2))
    bench.graphed(-batch(2))
    assert torch.equal(first, double(batch(2)))


@pytest.mark.parametrize(
    ("rows", "plan"), [(1, (1,)), (4, (4,)), (5, (4, 1)), (7, (4, 2, 1)), (8, (8,)), (17, (8, 8, 1))]
)
def test_where_time_grows_with_the_rows_none_is_wasted(rows: int, plan: tuple[int, ...]) -> None:
    assert cheapest(rows, {bucket: float(bucket) + 0.01 for bucket in (1, 2, 4, 8)}) == plan


@pytest.mark.parametrize(("rows", "plan"), [(1, (1,)), (3, (4,)), (5, (8,)), (9, (8, 1))])
def test_where_all_take_the_same_rows_are_padded(rows: int, plan: tuple[int, ...]) -> None:
    assert len(cheapest(rows, dict.fromkeys((1, 2, 4, 8), 1.0))) == len(plan)
    assert sum(cheapest(rows, dict.fromkeys((1, 2, 4, 8), 1.0))) >= rows


def test_nothing_recorded_makes_no_plan() -> None:
    assert cheapest(3, {}) == ()


def test_largest_is_recorded_first() -> None:
    bench = Bench()
    bench.graphed.record([ROW])
    assert bench.recorder.recorded == [8, 4, 2, 1]


def test_call_records_nothing_but_asks_once_it_has_come_often_enough() -> None:
    bench = Bench(patience=3)
    for _ in range(5):
        assert torch.equal(bench.graphed(batch(3)), double(batch(3)))
    assert (bench.counters.fallbacks, bench.counters.recordings) == (5, 0)
    (work,) = bench.asked
    work()
    assert torch.equal(bench.graphed(batch(3)), double(batch(3)))
    assert bench.recorder.recorded == [4]
    assert (bench.counters.fallbacks, bench.counters.replays) == (5, 1)
    assert bench.counters.recordings_in_step == 0


def test_no_more_shapes_are_recorded_than_there_is_room_for() -> None:
    bench = Bench(patience=1, most_shapes=1)
    bench.graphed(batch(1))
    bench.asked.pop()()
    bench.graphed(batch(1, 5, 5))
    assert bench.asked == []
    bench.graphed(batch(2))  # of the known shape, another number of rows
    assert len(bench.asked) == 1


def test_what_does_not_fit_runs_as_several_smaller_ones(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.recorder.fails_from = 5
    bench.graphed.record([ROW])
    assert torch.equal(bench.graphed(batch(7)), double(batch(7)))
    assert bench.recorder.recorded == [4, 2, 1]
    assert (bench.counters.failures, bench.counters.fallbacks, bench.asked) == (1, 0, [])
    (record,) = caplog.records
    assert "no recording of 8 rows" in record.getMessage()


def test_what_cannot_be_recorded_runs_without_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(patience=1)
    bench.recorder.fails_from, bench.recorder.error = (
        1,
        RuntimeError("operation not permitted when stream is capturing"),
    )
    bench.graphed.record([ROW])
    bench.graphed.record([ROW])
    for _ in range(3):
        assert torch.equal(bench.graphed(batch(2)), double(batch(2)))
    assert (bench.counters.failures, bench.counters.fallbacks, bench.asked) == (1, 3, [])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_recording_in_a_step_would_be_counted() -> None:
    counters = Counters()
    with DEVICE.step():
        counters.note_recording()
        counters.note_compilation()
    with DEVICE.exclusively():
        counters.note_recording()
        counters.note_compilation()
    assert (counters.recordings, counters.recordings_in_step) == (2, 1)
    assert (counters.compilations, counters.compilations_in_step) == (2, 1)


def test_gate_lets_one_in_at_a_time_and_whoever_waits_first() -> None:
    gate, inside, order = Gate(), threading.Event(), list[str]()

    def wait_for_a_turn() -> None:
        inside.set()
        with gate.exclusively():
            order.append("recorder")

    with gate.step():
        assert gate.in_step()
        waiting = threading.Thread(target=wait_for_a_turn)
        waiting.start()
        inside.wait()
        while not gate._turnstile.locked():
            pass
        order.append("step")
    for _ in range(3):
        with gate.step():
            order.append("step")
    waiting.join()
    assert order == ["step", "recorder", "step", "step", "step"]
    assert not gate.in_step()
