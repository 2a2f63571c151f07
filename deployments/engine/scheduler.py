"""Decides who is encoded and which rows share the next UNet forward. Plain Python: no torch, no threads, no clocks.

Requests of one latent shape with the same adapters form a lane. Interactive requests go first: folder-job requests are
neither admitted nor stepped while an interactive one is here, and take up where they stopped once it is gone. Among
equals the one that is due first goes first. A request is due when the engine has done PATIENCE times the request's own
work since it came: short ones overtake long ones, and nobody is overtaken for ever (benchmarks/scheduling.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from deployments.engine.state import DenoiseState, Lane
from deployments.engine.step_times import StepTimes

PATIENCE = 16  # 2 to 8 leave longer tails, 32 is no better


class Scheduler:
    """Two lists, `waiting` and `running`, and a cap on the rows of a step batch that each lane may lower.

    Those running have begun; a step advances those of them that go first.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.waiting: list[DenoiseState] = []
        self.running: list[DenoiseState] = []
        self.times = StepTimes()
        self._work = 0  # done since the start, in rows times latent pixels
        self._caps: dict[Lane, int] = {}
        self._served: dict[Lane, float] = {}  # seconds each lane has had
        self._level = 0.0  # that of the lane served last, before it was: the least of all that contend

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def queued_steps(self) -> int:
        """Denoise steps still to run for everyone here; what autoscaling looks at."""
        return sum(state.steps_left for state in (*self.waiting, *self.running))

    def cap(self, lane: Lane) -> int:
        """The most rows a step batch of this lane may have: what memory allows, and no more than pay."""
        height, width, _ = lane
        return min(self._caps.get(lane, self.max_rows), self.times.knee((height, width)) or self.max_rows)

    def add(self, states: Iterable[DenoiseState]) -> None:
        for state in states:
            state.due = self._work + PATIENCE * state.steps_left * _step_work(state)
            self.waiting.append(state)

    def remove(self, request_id: str) -> DenoiseState | None:
        """Take a request out wherever it is; None if it is not here (any more)."""
        for queue in (self.waiting, self.running):
            for state in queue:
                if state.request.request_id == request_id:
                    queue.remove(state)
                    return state
        return None

    def find(self, request_id: str) -> tuple[DenoiseState, int] | None:
        """A request and its place in the line of those waiting, 0 if it is running; None if it is not here."""
        for state in self.running:
            if state.request.request_id == request_id:
                return state, 0
        line = sorted(self.waiting, key=lambda state: (state.request.priority != "interactive", state.due))
        for place, state in enumerate(line, 1):
            if state.request.request_id == request_id:
                return state, place
        return None

    def admit(self) -> list[DenoiseState]:
        """Move to `running` those waiting that go before all but a step batch of their lane's others."""
        rows = Counter[Lane]()
        admitted, full = [], set[Lane]()
        running = set(map(id, self.running))
        for state in self._foremost((*self.running, *self.waiting)):
            lane = state.lane
            if rows[lane] and rows[lane] + state.rows > self.cap(lane):
                full.add(lane)  # for those behind too: they would overtake a guided request for ever
            if lane not in full:
                rows[lane] += state.rows
                admitted += [state] if id(state) not in running else []
        for state in admitted:
            self.waiting.remove(state)
        self.running.extend(admitted)
        return admitted

    def select(self) -> list[DenoiseState]:
        """The next step batch: the foremost requests of the lane that has been served least, up to its cap."""
        lanes: dict[Lane, list[DenoiseState]] = {}
        for state in self._foremost(self.running):
            lanes.setdefault(state.lane, []).append(state)
        if not lanes:
            return []
        for lane in lanes:  # one that was idle or yielding starts level with the others, whatever it had before
            self._served[lane] = max(self._served.get(lane, 0.0), self._level)
        lane = min(lanes, key=lambda lane: self._served[lane])
        self._level = self._served[lane]
        batch: list[DenoiseState] = []
        rows = 0
        for state in lanes[lane]:
            if batch and rows + state.rows > self.cap(lane):
                break
            batch.append(state)
            rows += state.rows
        return batch

    def charge(self, batch: list[DenoiseState], seconds: float) -> None:
        """Count a step of this batch, which took so long."""
        lane = batch[0].lane
        self._served[lane] += seconds
        self._work += sum(_step_work(state) for state in batch)
        height, width, loras = lane
        if not loras:  # which run in another form of the networks
            self.times.observe((height, width), sum(state.rows for state in batch), seconds)

    def pop_denoised(self) -> list[DenoiseState]:
        """Take out those whose last step is done."""
        done = [state for state in self.running if state.is_denoised]
        self.running = [state for state in self.running if not state.is_denoised]
        return done

    def halve_cap(self, batch: list[DenoiseState]) -> bool:
        """Lower the lane's cap to half of what just ran out of memory. False if it was one row already."""
        rows = sum(state.rows for state in batch)
        lane = batch[0].lane
        least = min(rows, self.cap(lane))
        if least > 1:
            self._caps[lane] = least // 2
        return least > 1

    @staticmethod
    def _foremost(states: Iterable[DenoiseState]) -> list[DenoiseState]:
        """The interactive ones if there are any, else all, as they are due."""
        everyone = sorted(states, key=lambda state: state.due)
        return [state for state in everyone if state.request.priority == "interactive"] or everyone


def _step_work(state: DenoiseState) -> int:
    height, width = state.latent_shape
    return state.rows * height * width
