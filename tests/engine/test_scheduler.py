"""Who is encoded next and which rows share a step, decided on states that no network ever sees."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from deployments.engine.scheduler import DUE_AFTER, Scheduler
from deployments.engine.state import DenoiseState, StepBatch
from tests.support.fakes import waiting


def scheduler_of(*states: DenoiseState, max_rows: int = 4) -> Scheduler:
    scheduler = Scheduler(max_rows)
    scheduler.add(states)
    return scheduler


def ids(states: list[DenoiseState]) -> str:
    return " ".join(state.request.request_id for state in states)


def select(scheduler: Scheduler) -> StepBatch:
    batch = scheduler.select()
    assert batch is not None
    return batch


def step(scheduler: Scheduler) -> str:
    """One engine step without a runner; who was in it."""
    scheduler.admit()
    batch = scheduler.select()
    if batch is None:
        return ""
    for state in batch.states:
        state.step_index += 1
    # Its seconds follow the work, and are so few that they say nothing about how many rows pay.
    scheduler.charge(batch, 1e-9 * sum(state.num_rows * math.prod(state.latent_shape) for state in batch.states))
    scheduler.pop_denoised()
    return ids(batch.states)


def steps(scheduler: Scheduler, count: int) -> Counter[str]:
    """How often each was in the next `count` step batches."""
    return Counter(name for _ in range(count) for name in step(scheduler).split())


def test_requests_are_served_in_order_of_arrival() -> None:
    scheduler = scheduler_of(*(waiting(name, steps=1) for name in "abcdefghi"))
    assert [step(scheduler) for _ in range(3)] == ["a b c d", "e f g h", "i"]
    assert not scheduler.has_work


def test_newcomer_takes_the_first_place_that_comes_free() -> None:
    scheduler = scheduler_of(waiting("a", steps=3), waiting("b", steps=3), waiting("c", steps=3), max_rows=2)
    scheduler.admit()
    scheduler.running[1].step_index = 2
    assert [step(scheduler) for _ in range(3)] == ["a b", "a c", "a c"]


def test_short_request_goes_before_long_ones_that_have_begun() -> None:
    scheduler = scheduler_of(waiting("a", steps=30), waiting("b", steps=30), max_rows=1)
    step(scheduler)
    scheduler.add([waiting("short", steps=2)])
    assert [step(scheduler) for _ in range(3)] == ["short", "short", "a"]


def test_nobody_is_overtaken_for_ever() -> None:
    scheduler = scheduler_of(waiting("long", steps=5), max_rows=1)
    steps_until_done = 0
    while scheduler.has_work and steps_until_done < 1000:
        if not any(state.steps_left == 1 for state in (*scheduler.waiting, *scheduler.running)):
            scheduler.add([waiting(f"short {steps_until_done}", steps=1)])  # there is always another one
        done = step(scheduler)
        steps_until_done += 1
        if done == "long" and not any(state.request.request_id == "long" for state in scheduler.running):
            break
    assert steps_until_done < (DUE_AFTER + 2) * 5


def test_image_that_is_larger_is_more_work() -> None:
    scheduler = scheduler_of(waiting("large", steps=4, size=256), waiting("small", steps=8), max_rows=1)
    assert ids(scheduler.admit()) == "small large"


def test_guided_request_counts_two_rows() -> None:
    scheduler = scheduler_of(*(waiting(name, guided=True) for name in "abc"), max_rows=4)
    assert ids(scheduler.admit()) == "a b"
    assert ids(select(scheduler).states) == "a b"


def test_one_row_requests_do_not_take_the_place_that_a_guided_one_before_them_needs() -> None:
    scheduler = scheduler_of(waiting("a", steps=1), waiting("guided", guided=True, steps=1), max_rows=2)
    scheduler.add(waiting(f"late {i}", steps=3) for i in range(9))
    scheduler.admit()
    assert ids(scheduler.running) == "a"


@pytest.mark.parametrize("neighbours", [0, 2])
def test_request_larger_than_the_cap_still_runs(neighbours: int) -> None:
    scheduler = scheduler_of(waiting("large", guided=True, steps=2), max_rows=1)
    scheduler.add(waiting(f"{i}", steps=4) for i in range(neighbours))
    turns = steps(scheduler, 2 + 4 * neighbours)
    assert turns == {"large": 2, **{f"{i}": 4 for i in range(neighbours)}}
    assert not scheduler.has_work


def test_newcomers_of_another_shape_come_in_although_the_first_one_is_full() -> None:
    scheduler = scheduler_of(*(waiting(name) for name in "abcdef"), waiting("wide", size=128))
    assert ids(scheduler.admit()) == "a b c d wide"
    assert ids(list(scheduler.waiting)) == "e f"


def test_step_batch_has_one_shape() -> None:
    scheduler = scheduler_of(*(waiting(f"{i}", size=64 * (1 + i % 3)) for i in range(9)), max_rows=8)
    for _ in range(9):
        scheduler.admit()
        assert len({state.latent_shape for state in select(scheduler).states}) == 1


def test_folder_requests_yield_completely_to_an_interactive_one() -> None:
    scheduler = scheduler_of(*(waiting(name, steps=2, priority="folder") for name in "abcdef"))
    assert step(scheduler) == "a b c d"
    scheduler.add([waiting("now", steps=2)])
    assert [step(scheduler) for _ in range(4)] == ["now", "now", "a b c d", "e f"]


def test_folder_requests_of_another_shape_yield_too() -> None:
    scheduler = scheduler_of(waiting("folder", size=128, priority="folder"))
    assert step(scheduler) == "folder"
    scheduler.add([waiting("now", steps=3)])
    assert [step(scheduler) for _ in range(4)] == ["now", "now", "now", "folder"]


def test_waiting_folder_requests_are_not_admitted_while_an_interactive_one_is_here() -> None:
    scheduler = scheduler_of(waiting("folder", priority="folder"), waiting("now"))
    assert ids(scheduler.admit()) == "now"
    assert ids(list(scheduler.waiting)) == "folder"


@pytest.mark.parametrize("times", [1.5, 2, 3])
def test_batch_keys_share_the_machine_by_work_not_by_turns(times: float) -> None:
    scheduler = scheduler_of(waiting("small", steps=1000), waiting("large", steps=1000, size=int(64 * times)))
    turns = steps(scheduler, 300)
    assert turns["small"] / turns["large"] == pytest.approx(times**2, rel=0.1)


def test_batch_key_with_more_rows_has_fewer_turns() -> None:
    scheduler = scheduler_of(waiting("one", steps=1000), max_rows=8)
    scheduler.add(waiting(f"{i}", steps=1000, guided=True, size=72) for i in range(4))
    turns = steps(scheduler, 450)
    assert turns["one"] / turns["0"] == pytest.approx(8 * (72 / 64) ** 2, rel=0.1)


def assert_fair(scheduler: Scheduler, first: str, second: str) -> None:
    """From now on two batch keys of nearly equal work have nearly as many turns."""
    turns = steps(scheduler, 20)
    assert set(turns) == {first, second}
    assert turns[first] == pytest.approx(10, abs=2)


def test_idle_batch_key_gains_no_credit() -> None:
    scheduler = scheduler_of(waiting("busy", steps=10_000))
    steps(scheduler, 500)
    scheduler.add([waiting("new", steps=1000, size=72)])
    assert_fair(scheduler, "busy", "new")


def test_batch_key_that_worked_alone_does_not_pay_for_it_when_it_comes_back() -> None:
    scheduler = scheduler_of(waiting("before", steps=500))
    steps(scheduler, 500)
    assert not scheduler.has_work
    scheduler.add([waiting("other", steps=1000, size=72)])
    step(scheduler)
    scheduler.add([waiting("again", steps=1000)])
    assert_fair(scheduler, "other", "again")


def test_batch_key_of_yielding_folder_requests_gains_no_credit() -> None:
    scheduler = scheduler_of(*(waiting(f"{size}", steps=1000, size=size, priority="folder") for size in (64, 72)))
    steps(scheduler, 2)
    scheduler.add([waiting("now", steps=500)])
    assert steps(scheduler, 500) == {"now": 500}
    assert_fair(scheduler, "64", "72")


def test_newcomer_gains_no_credit_from_a_batch_key_of_yielding_folder_requests() -> None:
    scheduler = scheduler_of(waiting("folder", size=128, priority="folder"))
    step(scheduler)
    scheduler.add([waiting("busy", steps=10_000)])
    steps(scheduler, 500)
    scheduler.add([waiting("new", steps=1000, size=72)])
    assert_fair(scheduler, "busy", "new")


@pytest.mark.parametrize("place", ["waiting", "running"])
def test_request_is_removed_from_wherever_it_is_once(place: str) -> None:
    scheduler = scheduler_of(waiting("a"), waiting("b"), max_rows=1)
    scheduler.admit()
    name = {"running": "a", "waiting": "b"}[place]
    removed = scheduler.remove(name)
    assert removed is not None
    assert removed.request.request_id == name
    assert ids(getattr(scheduler, place)) == ""
    assert scheduler.remove(name) is None
    assert len(scheduler.waiting) + len(scheduler.running) == 1


def test_removal_frees_the_rows_for_the_next() -> None:
    scheduler = scheduler_of(waiting("a"), waiting("b"), max_rows=1)
    scheduler.admit()
    scheduler.remove("a")
    assert ids(scheduler.admit()) == "b"


def test_unknown_request_is_not_here() -> None:
    assert scheduler_of(waiting("a")).remove("b") is None


def test_cap_is_halved_from_what_ran_out_of_memory_down_to_one_row() -> None:
    scheduler = scheduler_of(*(waiting(name) for name in "abcdef"), max_rows=32)
    scheduler.admit()
    caps = []
    while scheduler.halve_cap(batch := select(scheduler)):
        caps.append((len(batch.states), scheduler.cap((8, 8))))
    assert caps == [(6, 3), (3, 1)]
    assert ids(batch.states) == "a"


def test_halved_cap_holds_for_its_own_shape_only() -> None:
    scheduler = scheduler_of(*(waiting(name) for name in "abcd"))
    scheduler.admit()
    scheduler.halve_cap(select(scheduler))
    assert (scheduler.cap((8, 8)), scheduler.cap((16, 16))) == (2, 4)


def test_those_over_a_lowered_cap_wait_their_turn() -> None:
    scheduler = scheduler_of(*(waiting(name, steps=1) for name in "abcde"))
    scheduler.admit()
    scheduler.halve_cap(select(scheduler))
    assert [step(scheduler) for _ in range(3)] == ["a b", "c d", "e"]


def test_queued_steps_are_all_those_still_to_run() -> None:
    scheduler = scheduler_of(waiting("a", steps=5), waiting("b", steps=7), max_rows=1)
    step(scheduler)
    assert scheduler.queued_steps == 4 + 7


def test_nobody_here_means_an_empty_step() -> None:
    scheduler = scheduler_of()
    assert scheduler.admit() == scheduler.pop_denoised() == []
    assert scheduler.select() is None
    assert not scheduler.has_work
