"""One step for everyone here: who leaves when, and that nobody pays for another's failure."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest

from deployments.engine.engine import Engine
from deployments.engine.errors import OutOfMemory
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest
from tests.support.fakes import Broken, FakeRunner, Results, Trouble, ask, drive


def engine_of(
    *requests: Img2ImgRequest,
    trouble: Trouble = lambda verb, ids: None,
    max_rows: int = 8,
    runs_ahead: bool = False,
) -> Engine:
    engine = Engine(FakeRunner(trouble, runs_ahead=runs_ahead), max_rows=max_rows)
    engine.add(engine.runner.prepare(request) for request in requests)
    return engine


def steps_of(results: Results) -> dict[str, tuple[int, int]]:
    """At which step each ended, and the number of times it was advanced; a failure raises."""
    counts = {}
    for request_id, (number, result) in results.items():
        if isinstance(result, Exception):
            raise result
        counts[request_id] = number, int(result.pixels[0, 0, 0])
    return counts


def fails(verb: str, culprit: str, error: Exception) -> Trouble:
    """The work of `verb` breaks whenever the culprit takes part in it."""

    def trouble(what: str, ids: list[str]) -> None:
        if what == verb and culprit in ids:
            raise error

    return trouble


def holds(verb: str, most: int) -> Trouble:
    """A machine whose memory holds only so many requests in one call of `verb`."""

    def trouble(what: str, ids: list[str]) -> None:
        if what == verb and len(ids) > most:
            raise OutOfMemory(f"{len(ids)} are too many")

    return trouble


def test_request_alone_takes_as_many_steps_as_it_has() -> None:
    engine = engine_of(ask("a", steps=5))
    results = drive(engine)
    assert steps_of(results) == {"a": (5, 5)}
    output = results["a"][1]
    assert isinstance(output, Img2ImgOutput)
    assert (output.request_id, output.num_denoise_steps, output.truncated) == ("a", 5, "")


def test_short_request_that_arrives_during_a_long_one_finishes_first() -> None:
    engine = engine_of(ask("long", steps=20))
    for _ in range(5):
        assert engine.step() == []
    engine.add([engine.runner.prepare(ask("short", steps=2))])
    assert steps_of(drive(engine, first=6)) == {"short": (7, 2), "long": (20, 20)}
    assert engine.runner.batches[5:8] == [["short", "long"], ["short", "long"], ["long"]]


def test_each_request_is_encoded_and_decoded_once_however_long_it_runs() -> None:
    engine = engine_of(*(ask(f"{i}", steps=i + 1) for i in range(6)), max_rows=4)
    drive(engine)
    everyone = {f"{i}": 1 for i in range(6)}
    assert (engine.runner.encoded, engine.runner.decoded) == (everyone, everyone)


@pytest.mark.parametrize(("verb", "last_step"), [("encode", 1), ("denoise", 1), ("decode", 4), ("fetch", 4)])
@pytest.mark.parametrize("culprit", ["a", "b", "c"])
def test_failure_ends_the_culprit_alone(verb: str, last_step: int, culprit: str) -> None:
    engine = engine_of(*(ask(name, steps=4) for name in "abc"), trouble=fails(verb, culprit, error := Broken()))
    results = drive(engine)
    assert results.pop(culprit) == (last_step, error)
    assert steps_of(results) == dict.fromkeys(sorted({*"abc"} - {culprit}), (4, 4))
    assert (engine.stats()["finished"], engine.stats()["failed"]) == (2, 1)


def test_image_is_fetched_when_the_next_step_is_under_way_where_the_host_runs_ahead() -> None:
    calls: list[tuple[str, list[str]]] = []
    engine = engine_of(
        ask("short", steps=2), ask("long", steps=4), trouble=lambda *call: calls.append(call), runs_ahead=True
    )
    results = drive(engine)
    assert steps_of(results) == {"short": (3, 2), "long": (4, 4)}  # the last has no step to wait for
    assert calls[2:] == [
        ("denoise", ["short", "long"]),
        ("decode", ["short"]),
        ("denoise", ["long"]),
        ("fetch", ["short"]),
        ("denoise", ["long"]),
        ("decode", ["long"]),
        ("fetch", ["long"]),
    ]


def test_request_that_leaves_while_it_is_decoded_is_not_fetched() -> None:
    engine = engine_of(ask("short", steps=1), ask("long", steps=3), runs_ahead=True)
    assert engine.step() == []
    assert engine.abort("short")
    assert not engine.abort("short")
    assert steps_of(drive(engine, first=2)) == {"long": (3, 3)}
    assert (engine.stats()["aborted"], engine.stats()["finished"]) == (1, 1)


@pytest.mark.parametrize("verb", ["encode", "denoise", "decode"])
def test_failure_of_everyone_ends_everyone(verb: str) -> None:
    def trouble(what: str, ids: list[str]) -> None:
        if what == verb:
            raise Broken(ids)

    results = drive(engine_of(ask("a"), ask("b"), trouble=trouble))
    assert {request_id: str(result) for request_id, (_, result) in results.items()} == {"a": "['a']", "b": "['b']"}


@pytest.mark.parametrize("verb", ["encode", "denoise", "decode"])
def test_failure_of_one_shape_leaves_another_alone(verb: str) -> None:
    requests = [ask("small"), ask("large", size=128), ask("other large", size=128)]
    results = drive(engine_of(*requests, trouble=fails(verb, "large", Broken())))
    assert isinstance(results.pop("large")[1], Broken)
    assert {name: count for name, (_, count) in steps_of(results).items()} == {"small": 3, "other large": 3}


def test_work_that_failed_together_is_done_again_for_each_alone() -> None:
    calls: list[list[str]] = []

    def trouble(verb: str, ids: list[str]) -> None:
        if verb == "denoise":
            calls.append(ids)
            if "culprit" in ids:
                raise Broken

    drive(engine_of(ask("a", steps=2), ask("culprit", steps=2), ask("b", steps=2), trouble=trouble))
    assert calls == [["a", "culprit", "b"], ["a"], ["culprit"], ["b"], ["a", "b"]]


def test_failure_in_the_middle_keeps_the_step_counts_of_the_neighbours() -> None:
    engine = engine_of(ask("a", steps=6), ask("b", steps=6))
    engine.step()
    engine.add([engine.runner.prepare(ask("culprit", steps=6))])
    engine.runner._trouble = fails("denoise", "culprit", Broken())
    results = drive(engine, first=2)
    assert results.pop("culprit")[0] == 2
    assert steps_of(results) == {"a": (6, 6), "b": (6, 6)}


@pytest.mark.parametrize(("most", "cap"), [(4, 4), (3, 2), (2, 2), (1, 1)])
def test_running_out_of_memory_lowers_the_cap_and_goes_on_with_the_same_results(most: int, cap: int) -> None:
    engine = engine_of(*(ask(f"{i}", steps=5) for i in range(8)), trouble=holds("denoise", most))
    results = drive(engine)
    assert {count for _, count in steps_of(results).values()} == {5}
    assert len(results) == 8
    assert engine.scheduler.cap((8, 8)) == cap
    assert engine.runner.times_memory_was_freed == engine.stats()["out_of_memory"] == {4: 1, 2: 2, 1: 3}[cap]
    assert engine.stats()["failed"] == 0


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_running_out_of_memory_besides_the_unet_does_each_alone(verb: str) -> None:
    engine = engine_of(*(ask(name) for name in "abc"), trouble=holds(verb, 1))
    assert steps_of(drive(engine)) == dict.fromkeys("abc", (3, 3))
    assert engine.runner.times_memory_was_freed == 1


def test_one_row_that_does_not_fit_fails_and_the_others_go_on() -> None:
    error = OutOfMemory("no room")
    engine = engine_of(ask("huge", size=1024), ask("a"), ask("b"), trouble=fails("denoise", "huge", error))
    results = drive(engine)
    assert results.pop("huge")[1] is error
    assert set(results) == {"a", "b"}
    assert {count for _, count in steps_of(results).values()} == {3}


def test_guided_request_that_does_not_fit_is_tried_row_by_row_before_it_fails() -> None:
    engine = engine_of(ask("huge", guided=True), trouble=holds("denoise", 0))
    results = drive(engine)
    assert isinstance(results["huge"][1], OutOfMemory)
    assert (engine.stats()["out_of_memory"], engine.stats()["failed"]) == (1, 1)


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize(("name", "place"), [("a", "running"), ("b", "waiting")])
def test_aborted_request_never_comes_out_and_frees_its_rows(steps_before: int, name: str, place: str) -> None:
    engine = engine_of(ask("a", steps=4), ask("b", steps=4), max_rows=1)
    for _ in range(steps_before):
        engine.step()
        assert name in [state.request.request_id for state in getattr(engine.scheduler, place)]
    assert engine.abort(name)
    results = drive(engine)
    assert steps_of(results).keys() == {"a", "b"} - {name}
    assert engine.stats()["aborted"] == 1
    assert engine.stats()["running"] == engine.stats()["waiting"] == 0


def test_aborting_a_finished_or_unknown_request_is_harmless() -> None:
    engine = engine_of(ask("a"))
    drive(engine)
    assert not engine.abort("a")
    assert not engine.abort("never here")
    assert engine.stats()["aborted"] == 0


def test_stats_count_what_happened_and_what_is_here() -> None:
    engine = engine_of(ask("a", steps=4, guided=True), ask("b", steps=2), ask("c", steps=9), max_rows=3)
    engine.step()
    stats = engine.stats()
    assert stats.pop("step_s") >= 0
    assert stats == {
        "steps": 1,
        "unet_rows": 3,
        "finished": 0,
        "failed": 0,
        "aborted": 0,
        "out_of_memory": 0,
        "waiting": 1,
        "running": 2,
        "queued_steps": 3 + 1 + 9,
    }
    drive(engine)
    stats = engine.stats()
    assert (stats["unet_rows"], stats["finished"], stats["queued_steps"]) == (2 * 4 + 2 + 9, 3, 0)


def test_timings_say_where_the_time_went() -> None:
    def takes_a_while(verb: str, ids: list[str]) -> None:
        until = time.perf_counter() + {"encode": 0.002, "denoise": 0.001, "decode": 0.002, "fetch": 0.001}[verb]
        while time.perf_counter() < until:
            pass

    started = time.perf_counter()
    results = drive(engine_of(ask("first", steps=5), ask("second", steps=5), trouble=takes_a_while, max_rows=1))
    took = time.perf_counter() - started
    for name, queued_s in (("first", 0), ("second", 0.007)):
        output = results[name][1]
        assert isinstance(output, Img2ImgOutput)
        timings = output.timings
        assert timings.queued_s >= queued_s
        assert (timings.encode_s >= 0.002, timings.denoise_s >= 0.005, timings.decode_s >= 0.003) == (True, True, True)
        assert sum(asdict(timings).values()) <= took
