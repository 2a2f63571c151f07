"""How long a step takes by its rows, as measured on the steps that requests need anyway, and how many rows pay."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

Shape = tuple[int, int]  # of latents: height, width

NUM_STEPS = 256  # latest steps of a shape that count: what is no longer tried is forgotten, and tried again
NUM_KEPT = 9  # of these, latest ones of a number of rows, of which the median counts
NUM_LEAST = 3  # one is no measurement: the first of its kind makes what later ones find
NUM_SHAPES = 64  # used last
LEAST_S = 0.001  # below that a step is all overhead
TOLERANCE = 1.1
ROWS_MORE = 2


class StepTimes:
    """The measured curve of each latent shape. Read from any thread, written by the engine's."""

    def __init__(self) -> None:
        self.curves: dict[Shape, dict[int, float]] = {}  # seconds by rows; replaced as a whole, never changed
        self._steps: dict[Shape, deque[tuple[int, float]]] = {}  # rows and seconds, the shape used last at the end

    def observe(self, shape: Shape, rows: int, seconds: float) -> None:
        """Take in one step of so many rows."""
        if seconds < LEAST_S:
            return
        steps = self._steps.pop(shape, deque(maxlen=NUM_STEPS))
        steps.append((rows, seconds))
        self._steps[shape] = steps
        if len(self._steps) > NUM_SHAPES:
            del self._steps[next(iter(self._steps))]
        self.curves = {known: self.curves.get(known, {}) for known in self._steps} | {shape: _curve(steps)}

    def forget(self) -> None:
        """Start over, where the networks run otherwise now."""
        self._steps, self.curves = {}, {}

    def knee(self, shape: Shape) -> int | None:
        """The fewest rows at which a row costs at most a tenth more than at the best number of rows.

        More of them would make steps longer and images no sooner. None where one guided request more, `ROWS_MORE`, has
        not been measured: more may be better still, and one row more may cost more than two do.
        """
        curve = self.curves.get(shape, {})
        if not curve:
            return None
        costs = {rows: seconds / rows for rows, seconds in curve.items()}
        least = min(rows for rows, cost in costs.items() if cost <= TOLERANCE * min(costs.values()))
        return least if least + ROWS_MORE <= max(costs) else None


def _curve(steps: Iterable[tuple[int, float]]) -> dict[int, float]:
    measured: dict[int, list[float]] = {}
    for rows, seconds in steps:
        measured.setdefault(rows, []).append(seconds)
    return {
        rows: statistics.median(times[-NUM_KEPT:])
        for rows, times in sorted(measured.items())
        if len(times) >= NUM_LEAST
    }
