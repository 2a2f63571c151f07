"""Which graphs run a batch, and that its rows are those of the network itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from deployments.engine.accel.cuda.device_lock import DEVICE_LOCK, DeviceLock
from deployments.engine.accel.cuda.graphs import MAX_MISSED, CaptureLimits, Counters, GraphedModule, cheapest
from tests.support.graph_replays import CallAgain

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
    """A doubling network as graphs, with the captures that it requests and how often its fallback ran."""

    def __init__(self, buckets: tuple[int, ...] = (1, 2, 4, 8), calls: int = 2, shapes: int = 2) -> None:
        self.graph_capture, self.counters = CallAgain(), Counters()
        self.requested: list[Callable[[], object]] = []
        limits = CaptureLimits(buckets, calls, shapes)
        self.graphed = GraphedModule(double, double, self.graph_capture, limits, self.counters, self.requested.append)


@pytest.mark.parametrize("rows", range(1, 20))
def test_rows_are_those_of_the_network_itself(rows: int) -> None:
    bench = Bench()
    bench.graphed.capture([ROW])
    for x in (batch(rows), -batch(rows)):
        assert torch.equal(bench.graphed(x), double(x))
    assert bench.counters.fallbacks == 0


def test_rows_of_an_earlier_batch_do_not_show() -> None:
    bench = Bench(buckets=(8,))
    bench.graphed.capture([ROW])
    bench.graphed(torch.full((8, 3, 4), torch.nan))
    assert torch.equal(bench.graphed(batch(5)), double(batch(5)))


def test_output_outlives_the_next_replay() -> None:
    bench = Bench()
    bench.graphed.capture([ROW])
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
    assert cheapest(rows, dict.fromkeys((1, 2, 4, 8), 1.0)) == plan


def test_without_graphs_there_is_no_plan() -> None:
    assert cheapest(3, {}) == ()


def test_largest_bucket_is_captured_first() -> None:
    bench = Bench()
    bench.graphed.capture([ROW])
    assert bench.graph_capture.captured == [8, 4, 2, 1]


def test_call_captures_nothing_but_requests_a_capture_once_the_shape_came_often_enough() -> None:
    bench = Bench(calls=3)
    for _ in range(5):
        assert torch.equal(bench.graphed(batch(3)), double(batch(3)))
    assert (bench.counters.fallbacks, bench.counters.captures) == (5, 0)
    (work,) = bench.requested
    work()
    assert torch.equal(bench.graphed(batch(3)), double(batch(3)))
    assert bench.graph_capture.captured == [4]
    assert (bench.counters.fallbacks, bench.counters.replays) == (5, 1)
    assert bench.counters.captures_in_step == 0


def test_no_more_shapes_are_captured_than_the_limit() -> None:
    bench = Bench(calls=1, shapes=1)
    bench.graphed(batch(1))
    bench.requested.pop()()
    bench.graphed(batch(1, 5, 5))
    assert bench.requested == []
    bench.graphed(batch(2))  # of the known shape, another number of rows
    assert len(bench.requested) == 1


def test_what_is_counted_does_not_grow_with_the_sizes_that_callers_choose() -> None:
    bench = Bench(calls=3)
    for side in range(1, MAX_MISSED + 9):
        bench.graphed(batch(1, 1, side))
    assert len(bench.graphed._misses) == MAX_MISSED
    for _ in range(2):
        bench.graphed(batch(1, 1, side))
    assert len(bench.requested) == 1


def test_what_does_not_fit_runs_as_several_smaller_ones(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.graph_capture.fails_from = 5
    bench.graphed.capture([ROW])
    assert torch.equal(bench.graphed(batch(7)), double(batch(7)))
    assert bench.graph_capture.captured == [4, 2, 1]
    assert (bench.counters.failures, bench.counters.fallbacks, bench.requested) == (1, 0, [])
    (record,) = caplog.records
    assert "no capture of 8 rows" in record.getMessage()


def test_what_does_not_fit_later_runs_as_several_that_are_captured() -> None:
    bench = Bench(calls=1)
    bench.graphed.capture([ROW], [2])
    assert torch.equal(bench.graphed(batch(4)), double(batch(4)))  # the fallback, while 4 rows are awaited
    bench.graph_capture.fails_from = 3
    bench.requested.pop()()
    assert torch.equal(bench.graphed(batch(4)), double(batch(4)))
    assert (bench.counters.fallbacks, bench.counters.replays) == (1, 2)


def test_what_cannot_be_captured_runs_on_the_fallback_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(calls=1)
    bench.graph_capture.fails_from, bench.graph_capture.error = (
        1,
        RuntimeError("operation not permitted when stream is capturing"),
    )
    bench.graphed.capture([ROW])
    bench.graphed.capture([ROW])
    for _ in range(3):
        assert torch.equal(bench.graphed(batch(2)), double(batch(2)))
    assert (bench.counters.failures, bench.counters.fallbacks, bench.requested) == (1, 3, [])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_capture_in_a_step_would_be_counted() -> None:
    counters = Counters()
    with DEVICE_LOCK.step():
        counters.add_capture()
        counters.add_compilation()
    with DEVICE_LOCK.capture():
        counters.add_capture()
        counters.add_compilation()
    assert (counters.captures, counters.captures_in_step) == (2, 1)
    assert (counters.compilations, counters.compilations_in_step) == (2, 1)


def test_lock_is_held_by_one_at_a_time_and_the_waiting_thread_comes_first() -> None:
    lock, inside, order = DeviceLock(), threading.Event(), list[str]()

    def wait_for_a_turn() -> None:
        inside.set()
        with lock.capture():
            order.append("capture")

    with lock.step():
        assert lock.in_step()
        waiting = threading.Thread(target=wait_for_a_turn)
        waiting.start()
        inside.wait()
        while not lock._turnstile.locked():
            pass
        order.append("step")
    for _ in range(3):
        with lock.step():
            order.append("step")
    waiting.join()
    assert order == ["step", "capture", "step", "step", "step"]
    assert not lock.in_step()
