"""The engine: each step() encodes newcomers, advances one step batch by one step, and decodes the finished.

Where the host runs ahead of a device, the images of one step are fetched when the next is under way. Single-threaded
and blocking. A failure ends the request that caused it, and no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from deployments.engine.errors import OutOfMemory
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels, Progress, Timings
from deployments.engine.scheduler import Scheduler
from deployments.engine.state import DenoiseState, LatentShape, StepBatch, by_shape

logger = logging.getLogger(__name__)
Work = Callable[[list[DenoiseState]], None]
Finished = tuple[str, Img2ImgOutput | Exception]
COUNTERS = ("steps", "step_s", "finished", "failed", "aborted", "out_of_memory")  # since the start


class RunnerLike(Protocol):
    """What the engine needs of a runner; tests bring one without networks."""

    @property
    def backend(self) -> str: ...
    @property
    def runs_ahead(self) -> bool: ...
    def describe(self) -> dict[str, Any]: ...
    def image_size(self, shape: LatentShape) -> tuple[int, int]: ...
    def stats(self) -> dict[str, int]: ...
    def prepare(self, request: Img2ImgRequest) -> DenoiseState: ...
    def encode(self, states: list[DenoiseState]) -> None: ...
    def denoise_step(self, batch: StepBatch) -> None: ...
    def step_times(self) -> list[tuple[StepBatch, float]]: ...
    def decode(self, states: list[DenoiseState]) -> None: ...
    def fetch(self, states: list[DenoiseState]) -> None: ...
    def preview(self, state: DenoiseState) -> Pixels | None: ...
    def free_memory(self) -> None: ...


class Engine:
    """Requests in with `add`, finished ones out of `step`; in between one forward a step for all of a batch key."""

    def __init__(self, runner: RunnerLike, *, max_rows: int) -> None:
        self.runner = runner
        self.scheduler = Scheduler(max_rows)
        self._decoding: list[DenoiseState] = []
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._backend = runner.backend
        self.call_started = 0.0  # by time.monotonic(), of the runner's latest call

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._decoding)

    def add(self, states: Iterable[DenoiseState]) -> None:
        """Queue prepared requests (`runner.prepare`)."""
        self.scheduler.add(states)

    def abort(self, request_id: str) -> bool:
        """Drop a request and its rows. False if it is not here (any more); asking twice is harmless."""
        state = self.scheduler.remove(request_id)
        if state is None:
            state = next((state for state in self._decoding if state.request.request_id == request_id), None)
            self._decoding = [other for other in self._decoding if other is not state]
        self._counters["aborted"] += state is not None
        return state is not None

    def step(self) -> list[Finished]:
        """One round for everyone here; returns the requests that it ended, each with its image or its error."""
        failed = self._encode(self.scheduler.admit())
        failed += self._denoise(self.scheduler.select())
        denoised = self.scheduler.pop_denoised()
        self._decode(denoised)
        done = self._fetch(self._decoding)
        self._decoding = denoised
        if not self.runner.runs_ahead or not self.scheduler.has_work:
            done += self._fetch(self._decoding)
            self._decoding = []
        return [self._finish(state) for state in (*failed, *done)]

    def progress(self, request_id: str) -> Progress | None:
        """How far a request is; None if it is not here (any more)."""
        found = self.scheduler.find(request_id)
        if found is None:
            return None
        state, place = found
        try:
            preview = self.runner.preview(state)
        except Exception:  # a preview is not worth a request
            logger.exception("no preview of request %s", request_id)
            preview = None
        return Progress(place, state.step_index, len(state.table), preview)

    def describe(self) -> dict[str, Any]:
        """What the checkpoint is and how it runs; a step's seconds by its rows for each image size. Thread-safe."""
        curves = [
            dict(zip(("width", "height"), self.runner.image_size(shape), strict=True))
            | {"seconds": seconds, "max_rows": self.scheduler.cap(shape)}
            for shape, seconds in self.scheduler.step_times.curves.items()
        ]
        return {**self.runner.describe(), "max_rows": self.scheduler.max_rows, "step_times": curves}

    def stats(self) -> dict[str, float]:
        """A snapshot of all counters, and of what is here now."""
        scheduler = self.scheduler
        here = {"waiting": len(scheduler.waiting), "running": len(scheduler.running)}
        return {**self._counters, **self.runner.stats(), **here, "queued_steps": scheduler.queued_steps}

    def _encode(self, states: list[DenoiseState]) -> list[DenoiseState]:
        started = time.perf_counter()
        for state in states:
            state.admitted = started
        self._together(self.runner.encode, states)
        for state in states:
            state.encode_s = time.perf_counter() - started
        return self._drop_failed(states)

    def _denoise(self, batch: StepBatch | None) -> list[DenoiseState]:
        if batch is None:
            return []

        def advance(states: list[DenoiseState]) -> None:
            self.runner.denoise_step(StepBatch(states, batch.max_rows))

        started = time.perf_counter()
        error = self._error_of(advance, batch.states)
        if isinstance(error, OutOfMemory) and self.scheduler.halve_cap(batch):
            self._counters["out_of_memory"] += 1
            logger.warning("out of memory with %d requests in a step: fewer from now on", len(batch.states))
            self.runner.free_memory()
            return []
        self._each_alone(advance, batch.states, after=error)
        self._account(batch, time.perf_counter() - started)
        return self._drop_failed(batch.states)

    def _account(self, batch: StepBatch, seconds: float) -> None:
        if self.runner.backend != self._backend:  # another one by now: what was measured says nothing about it
            self._backend = self.runner.backend
            self.scheduler.step_times.forget()
        for completed, took_s in self.runner.step_times():
            self.scheduler.charge(completed, took_s)
        self._counters["steps"] += 1
        self._counters["step_s"] += seconds
        for state in batch.states:
            state.denoise_s += seconds

    def _decode(self, states: list[DenoiseState]) -> None:
        for alike in by_shape(states):
            for state in alike:
                state.decode_started = time.perf_counter()
            self._together(self.runner.decode, alike)

    def _fetch(self, states: list[DenoiseState]) -> list[DenoiseState]:
        """The same states, with their images or errors."""
        self._together(self.runner.fetch, [state for state in states if state.error is None])
        return states

    def _together(self, work: Work, states: list[DenoiseState]) -> None:
        """Do `work` for all at once; if that fails, for each alone: only the culprit suffers."""
        self._each_alone(work, states, after=self._error_of(work, states) if states else None)

    def _each_alone(self, work: Work, states: list[DenoiseState], after: Exception | None) -> None:
        """Do `work` again for each, if it failed for all of them."""
        if after is None:
            return
        self.runner.free_memory()
        for state in states:
            state.error = self._error_of(work, [state]) if len(states) > 1 else after

    def _error_of(self, work: Work, states: list[DenoiseState]) -> Exception | None:
        """Do `work`, and return what it raises."""
        self.call_started = time.monotonic()
        try:
            work(states)
        except Exception as exc:
            return exc
        return None

    def _drop_failed(self, states: list[DenoiseState]) -> list[DenoiseState]:
        failed = [state for state in states if state.error is not None]
        for state in failed:
            self.scheduler.remove(state.request.request_id)
        return failed

    def _finish(self, state: DenoiseState) -> Finished:
        request_id = state.request.request_id
        if state.error is not None:
            self._counters["failed"] += 1
            logger.error("request %s failed: %s", request_id, state.error, exc_info=state.error)
            return request_id, state.error
        assert state.pixels is not None, "a denoised state without error was decoded"
        self._counters["finished"] += 1
        queued_s, decode_s = state.admitted - state.arrived, time.perf_counter() - state.decode_started
        timings = Timings(queued_s, state.encode_s, state.denoise_s, decode_s)
        return request_id, Img2ImgOutput(request_id, state.pixels, len(state.table), state.truncated, timings)
