"""Decides who is encoded and which rows share the next UNet forward. Plain Python: no torch, no threads, no clocks.

Requests of one latent shape with the same adapters form a lane. Interactive requests go first: folder-job requests are
neither admitted nor stepped while an interactive one is here, and take up where they stopped once it is gone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from deployments.engine.state import DenoiseState, Lane


class Scheduler:
    """Two lists, `waiting` and `running`, and a cap on the rows of a step batch that each lane may lower."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.waiting: deque[DenoiseState] = deque()
        self.running: list[DenoiseState] = []
        self._caps: dict[Lane, int] = {}
        self._served: Counter[Lane] = Counter()  # work each lane has had, in rows times latent pixels
        self._level = 0  # that of the lane served last, before it was: the least of all that contend

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def queued_steps(self) -> int:
        """Denoise steps still to run for everyone here; what autoscaling looks at."""
        return sum(state.steps_left for state in (*self.waiting, *self.running))

    def cap(self, lane: Lane) -> int:
        """The most rows a step batch of this lane may have."""
        return self._caps.get(lane, self.max_rows)

    def add(self, states: Iterable[DenoiseState]) -> None:
        self.waiting.extend(states)

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
        line = sorted(self.waiting, key=lambda state: state.request.priority != "interactive")
        for place, state in enumerate(line, 1):
            if state.request.request_id == request_id:
                return state, place
        return None

    def admit(self) -> list[DenoiseState]:
        """Move to `running` those waiting, in order of arrival, whose lane still has room for their rows."""
        foremost = self._foremost((*self.waiting, *self.running))
        rows = Counter[Lane]()
        for state in foremost:
            if state in self.running:
                rows[state.lane] += state.rows
        admitted, full = [], set[Lane]()
        for state in foremost:
            lane = state.lane
            if state in self.running:
                continue
            if rows[lane] and rows[lane] + state.rows > self.cap(lane):
                full.add(lane)  # for those behind too: they would overtake a guided request for ever
            if lane not in full:
                rows[lane] += state.rows
                admitted.append(state)
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
            self._served[lane] = max(self._served[lane], self._level)
        lane = min(lanes, key=lambda lane: self._served[lane])
        self._level = self._served[lane]
        batch: list[DenoiseState] = []
        rows = 0
        for state in lanes[lane]:
            if batch and rows + state.rows > self.cap(lane):
                break
            batch.append(state)
            rows += state.rows
        self._served[lane] += rows * lane[0] * lane[1]
        return batch

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
        """The interactive ones if there are any, else all, in the given order."""
        everyone = list(states)
        return [state for state in everyone if state.request.priority == "interactive"] or everyone
