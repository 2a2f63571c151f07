"""How long a step takes by its rows, as measured on the steps that requests need anyway, and how many rows pay."""

from __future__ import annotations

import statistics
from collections import deque

Shape = tuple[int, int]  # of latents: height, width

NUM_KEPT = 9  # latest measurements of a number of rows, of which the median counts
NUM_SHAPES = 64  # used last
LEAST_S = 0.001  # below that a step is all overhead
TOLERANCE = 1.1


class StepTimes:
    """The measured curve of each latent shape. Read from any thread, written by the engine's."""

    def __init__(self) -> None:
        self.curves: dict[Shape, dict[int, float]] = {}  # seconds by rows; replaced as a whole, never changed
        self._measured: dict[Shape, dict[int, deque[float]]] = {}

    def observe(self, shape: Shape, rows: int, seconds: float) -> None:
        """Take in one step of so many rows."""
        if seconds < LEAST_S:
            return
        measured = self._measured.pop(shape, {})
        measured.setdefault(rows, deque(maxlen=NUM_KEPT)).append(seconds)
        self._measured[shape] = measured  # the last in order now
        while len(self._measured) > NUM_SHAPES:
            del self._measured[next(iter(self._measured))]
        self.curves = {
            known: {count: statistics.median(times) for count, times in sorted(by_rows.items())}
            for known, by_rows in self._measured.items()
        }

    def forget(self) -> None:
        """Start over, where the networks run otherwise now."""
        self._measured, self.curves = {}, {}

    def knee(self, shape: Shape) -> int | None:
        """The fewest rows at which a row costs at most a tenth more than at the best number of rows.

        More of them would make steps longer and images no sooner. None where the largest number measured is the best:
        more may be better still.
        """
        curve = self.curves.get(shape, {})
        if len(curve) < 2:
            return None
        costs = {rows: seconds / rows for rows, seconds in curve.items()}
        least = min(rows for rows, cost in costs.items() if cost <= TOLERANCE * min(costs.values()))
        return None if least == max(costs) else least
