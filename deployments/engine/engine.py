"""The engine: each step() admits and encodes newcomers, advances one step batch by one step, and decodes the finished.

Where the host hands its work over to a device, the pictures of one step are collected when the next is under way.

Single-threaded and blocking. Whatever goes wrong for one request ends that request only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Protocol

from deployments.engine.models.devices import is_out_of_memory
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels, Progress, Timings
from deployments.engine.scheduler import Scheduler
from deployments.engine.state import DenoiseState

logger = logging.getLogger(__name__)
Finished = tuple[str, Img2ImgOutput | Exception]


class RunnerLike(Protocol):
    """What the engine needs of a runner; tests bring one without networks."""

    unet_rows: int

    @property
    def form(self) -> str: ...
    @property
    def runs_ahead(self) -> bool: ...
    def prepare(self, request: Img2ImgRequest) -> DenoiseState: ...
    def encode(self, states: list[DenoiseState]) -> None: ...
    def denoise_step(self, states: list[DenoiseState], max_rows: int) -> None: ...
    def step_times(self) -> list[tuple[list[DenoiseState], float]]: ...
    def decode(self, states: list[DenoiseState]) -> None: ...
    def collect(self, states: list[DenoiseState]) -> None: ...
    def preview(self, state: DenoiseState) -> Pixels | None: ...
    def free_memory(self) -> None: ...


@dataclass(slots=True)
class EngineStats:
    """Counters since start, and what is here now."""

    steps: int = 0
    step_s: float = 0.0
    unet_rows: int = 0
    finished: int = 0
    failed: int = 0
    aborted: int = 0
    out_of_memory: int = 0
    waiting: int = 0
    running: int = 0
    queued_steps: int = 0


class Engine:
    """Requests in with `add`, finished ones out of `step`, in between one UNet forward a step for all of a shape."""

    def __init__(self, runner: RunnerLike, *, max_rows: int) -> None:
        self.runner = runner
        self.scheduler = Scheduler(max_rows)
        self._decoding: list[DenoiseState] = []
        self._stats = EngineStats()
        self._form = runner.form

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
        self._stats.aborted += state is not None
        return state is not None

    def step(self) -> list[Finished]:
        """One round for everyone here; returns those it ended, with their image or their error."""
        failed = self._encode(self.scheduler.admit())
        failed += self._denoise(self.scheduler.select())
        denoised = self.scheduler.pop_denoised()
        self._decode(denoised)
        done = self._collect(self._decoding)
        self._decoding = denoised
        if not self.runner.runs_ahead or not self.scheduler.has_work:
            done += self._collect(self._decoding)
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
        except Exception:  # a picture to look at is not worth a request
            logger.exception("no preview of request %s", request_id)
            preview = None
        return Progress(place, state.step_index, len(state.table), preview)

    def stats(self) -> dict[str, float]:
        """A snapshot of the counters."""
        scheduler = self.scheduler
        self._stats.unet_rows = self.runner.unet_rows
        self._stats.waiting, self._stats.running = len(scheduler.waiting), len(scheduler.running)
        self._stats.queued_steps = scheduler.queued_steps
        return asdict(self._stats)

    def _encode(self, states: list[DenoiseState]) -> list[DenoiseState]:
        started = time.perf_counter()
        for state in states:
            state.admitted = started
        self._each_alone_on_error(self.runner.encode, states)
        for state in states:
            state.encode_s = time.perf_counter() - started
        return self._drop_failed(states)

    def _denoise(self, states: list[DenoiseState]) -> list[DenoiseState]:
        if not states:
            return []
        started = time.perf_counter()
        cap = self.scheduler.cap(states[0].lane)
        try:
            self.runner.denoise_step(states, cap)
        except Exception as exc:
            if is_out_of_memory(exc) and self.scheduler.halve_cap(states):
                self._stats.out_of_memory += 1
                logger.warning("out of memory with %d requests in a step: fewer from now on", len(states))
                self.runner.free_memory()
                return []
            self._each_alone_on_error(lambda alone: self.runner.denoise_step(alone, cap), states, after=exc)
        took_s = time.perf_counter() - started
        if self.runner.form != self._form:  # compiled by now, and faster
            self._form = self.runner.form
            self.scheduler.times.forget()
        for batch, seconds in self.runner.step_times():
            self.scheduler.charge(batch, seconds)
        self._stats.steps += 1
        self._stats.step_s += took_s
        for state in states:
            state.denoise_s += took_s
        return self._drop_failed(states)

    def _decode(self, states: list[DenoiseState]) -> None:
        for _, group in groupby(sorted(states, key=_shape), key=_shape):
            alike = list(group)
            for state in alike:
                state.decode_began = time.perf_counter()
            self._each_alone_on_error(self.runner.decode, alike)

    def _collect(self, states: list[DenoiseState]) -> list[DenoiseState]:
        """The same states, with their pictures or errors."""
        self._each_alone_on_error(self.runner.collect, [state for state in states if state.error is None])
        for state in states:
            state.decode_s = time.perf_counter() - state.decode_began
        return states

    def _each_alone_on_error(
        self,
        work: Callable[[list[DenoiseState]], None],
        states: list[DenoiseState],
        after: Exception | None = None,
    ) -> None:
        """Do `work` for all at once; if that fails (or failed: `after`), for each alone: only the culprit suffers."""
        if after is None:
            try:
                if states:
                    work(states)
                return
            except Exception as exc:
                after = exc
        self.runner.free_memory()
        if len(states) == 1:
            states[0].error = after
            return
        for state in states:
            try:
                work([state])
            except Exception as exc:
                state.error = exc

    def _drop_failed(self, states: list[DenoiseState]) -> list[DenoiseState]:
        failed = [state for state in states if state.error is not None]
        for state in failed:
            self.scheduler.remove(state.request.request_id)
        return failed

    def _finish(self, state: DenoiseState) -> Finished:
        request_id = state.request.request_id
        if state.error is not None:
            self._stats.failed += 1
            logger.error("request %s failed: %s", request_id, state.error, exc_info=state.error)
            return request_id, state.error
        assert state.pixels is not None, "a denoised state without error was decoded"
        self._stats.finished += 1
        queued_s = time.perf_counter() - state.arrived - state.encode_s - state.denoise_s - state.decode_s
        timings = Timings(max(queued_s, 0.0), state.encode_s, state.denoise_s, state.decode_s)
        truncated = " … ".join(dict.fromkeys(c.truncated for c in state.conditions if c.truncated))
        return request_id, Img2ImgOutput(request_id, state.pixels, len(state.table), truncated, timings)


def _shape(state: DenoiseState) -> tuple[int, int]:
    return state.latent_shape
