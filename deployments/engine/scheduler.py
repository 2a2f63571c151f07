"""Decides who is encoded and which rows share the next forward. Plain Python: no torch, no threads, no clocks.

Requests of one batch key share step batches. Interactive requests go first: folder-job requests are neither admitted
nor stepped while an interactive one is here, and resume once it is gone. Within a priority the request that is due
first goes first. A request is due when the engine has done DUE_AFTER times the request's own work since it arrived:
short requests overtake long ones, and nobody is overtaken for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import chain
from math import prod

from deployments.engine.state import BatchKey, DenoiseState, LatentShape, StepBatch
from deployments.engine.step_times import NUM_SHAPES, StepTimes

STEP_BUDGET_S = 30.0  # of one forward: newcomers and departures wait for its end
USUAL_LATENTS = 64 * 64  # of 512 x 512 pixels: `max_rows` rows of this size are the most before anything is measured
ROWS_REGAINED = 0.02  # with each good step after running out of memory
DUE_AFTER = 16  # simulated p99 slowdown 14, in order of arrival 65; 2 to 8 leave longer tails, 32 is no better


class Scheduler:
    """Two lists, `waiting` and `running`, and a cap on the rows of a step batch, which each latent shape may lower.

    Running requests have begun; a step advances the foremost of them.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.waiting: list[DenoiseState] = []
        self.running: list[DenoiseState] = []
        self.step_times = StepTimes()
        self._work = 0  # done since the start, in rows times latent pixels
        self._caps: dict[LatentShape, float] = {}  # those that memory has lowered
        self._served: dict[BatchKey, float] = {}  # seconds of each batch key that is running
        self._level = 0.0  # seconds of the key that was served last, before that step: where newcomers start

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def queued_steps(self) -> int:
        """Denoise steps still to run for everyone here; what autoscaling looks at."""
        return sum(state.steps_left for state in (*self.waiting, *self.running))

    def cap(self, shape: LatentShape) -> int:
        """The most rows a step batch of this shape may have: what memory and time allow, and no more than pay."""
        seconds = self.step_times.row_seconds(shape)
        timely = STEP_BUDGET_S / seconds if seconds else self.max_rows * USUAL_LATENTS / prod(shape)
        most = min(self._caps.get(shape, self.max_rows), timely, self.step_times.knee(shape) or self.max_rows)
        return max(1, int(most))

    def add(self, states: Iterable[DenoiseState]) -> None:
        for state in states:
            state.due = self._work + DUE_AFTER * state.steps_left * _step_work(state)
            self.waiting.append(state)

    def remove(self, request_id: str) -> DenoiseState | None:
        """Take a request out wherever it is; None if it is not here (any more)."""
        state, place = self.find(request_id) or (None, 0)
        if state is not None:
            (self.waiting if place else self.running).remove(state)
        return state

    def find(self, request_id: str) -> tuple[DenoiseState, int] | None:
        """A request and its place among those waiting, 0 if it is running; None if it is not here."""
        queue = sorted(self.waiting, key=lambda state: (state.request.priority != "interactive", state.due))
        places = chain(((state, 0) for state in self.running), ((state, i) for i, state in enumerate(queue, 1)))
        return next((found for found in places if found[0].request.request_id == request_id), None)

    def admit(self) -> list[DenoiseState]:
        """Move to `running` those waiting that fit in a step batch behind the foremost of their shape and LoRAs."""
        rows = Counter[Hashable]()
        admitted, full = list[DenoiseState](), set[Hashable]()
        running = set(map(id, self.running))
        for state in _foremost((*self.running, *self.waiting)):
            key = state.batch_key[:2]  # the conditions are not known before a request is encoded
            if rows[key] and rows[key] + state.num_rows > self.cap(state.latent_shape):
                full.add(key)  # for those behind too: they would overtake a guided request for ever
            if key not in full:
                rows[key] += state.num_rows
                admitted += [state] if id(state) not in running else []
            if sum(map(_step_work, admitted)) >= self.max_rows * USUAL_LATENTS:
                break  # they are encoded within one step
        for state in admitted:
            self.waiting.remove(state)
        self.running.extend(admitted)
        return admitted

    def select(self) -> StepBatch | None:
        """The next step batch: the foremost requests of the batch key that has been served least, up to its cap."""
        by_key: dict[BatchKey, list[DenoiseState]] = {}
        for state in _foremost(self.running):
            by_key.setdefault(state.batch_key, []).append(state)
        if not by_key:
            return None
        self._served = {key: max(self._served.get(key, 0.0), self._level) for key in by_key}
        key = min(by_key, key=self._served.__getitem__)
        self._level = self._served[key]
        cap = self.cap(key[0])
        states: list[DenoiseState] = []
        for state in by_key[key]:
            if states and StepBatch([*states, state], cap).num_rows > cap:
                break
            states.append(state)
        return StepBatch(states, cap)

    def charge(self, batch: StepBatch, seconds: float) -> None:
        """Count a step of this batch, which took so long."""
        shape, loras, _ = batch.key
        self._served[batch.key] = self._served.get(batch.key, self._level) + seconds
        self._work += sum(_step_work(state) for state in batch.states)
        if shape in self._caps:
            self._caps[shape] = min(self.max_rows, self._caps[shape] + ROWS_REGAINED)
        if not loras:  # which run on another backend
            self.step_times.observe(shape, batch.num_rows, seconds)

    def pop_denoised(self) -> list[DenoiseState]:
        """Take out those whose last step is done."""
        done = [state for state in self.running if not state.steps_left]
        self.running = [state for state in self.running if state.steps_left]
        return done

    def halve_cap(self, batch: StepBatch) -> bool:
        """Lower the shape's cap to half of what just ran out of memory. False if it was one row already."""
        shape = batch.key[0]
        rows = min(batch.num_rows, self.cap(shape))
        if rows > 1:
            self._caps = dict(list(self._caps.items())[1 - NUM_SHAPES :]) | {shape: rows // 2}
        return rows > 1


def _foremost(states: Iterable[DenoiseState]) -> list[DenoiseState]:
    """The interactive ones if there are any, else all, in the order in which they are due."""
    everyone = sorted(states, key=lambda state: state.due)
    return [state for state in everyone if state.request.priority == "interactive"] or everyone


def _step_work(state: DenoiseState) -> int:
    return state.num_rows * prod(state.latent_shape)
