"""Seconds of a step by its rows, measured on the steps that requests need anyway, and how many rows pay."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

Shape = tuple[int, int]  # of latents: height, width

NUM_STEPS = 256  # latest steps of a shape that count: an old measurement is forgotten, and made again
NUM_KEPT = 9  # latest steps of a number of rows, of which the median counts
NUM_LEAST = 3  # fewer are no measurement: the first step with a number of rows allocates for the later ones
NUM_SHAPES = 64  # most recently used
LEAST_S = 0.001  # a shorter step is all overhead
COST_TOLERANCE = 1.1
ROWS_MORE = 2


class StepTimes:
    """The measured curve of each latent shape. Any thread may read it; the engine's thread writes."""

    def __init__(self) -> None:
        self.curves: dict[Shape, dict[int, float]] = {}  # seconds by rows; replaced as a whole, never changed
        self._steps: dict[Shape, deque[tuple[int, float]]] = {}  # rows and seconds, the shape used last at the end

    def observe(self, shape: Shape, rows: int, seconds: float) -> None:
        """Add the measurement of one step."""
        if seconds < LEAST_S:
            return
        steps = self._steps.pop(shape, deque(maxlen=NUM_STEPS))
        steps.append((rows, seconds))
        self._steps[shape] = steps
        if len(self._steps) > NUM_SHAPES:
            del self._steps[next(iter(self._steps))]
        self.curves = {known: self.curves.get(known, {}) for known in self._steps} | {shape: _curve(steps)}

    def forget(self) -> None:
        """Start over: another backend runs the networks."""
        self._steps, self.curves = {}, {}

    def row_seconds(self, shape: Shape) -> float | None:
        """The least that a row of a step has cost; None before it is measured."""
        return min((seconds / rows for rows, seconds in self.curves.get(shape, {}).items()), default=None)

    def knee(self, shape: Shape) -> int | None:
        """The fewest rows at which a row costs at most a tenth more than at the best number of rows.

        More rows would make steps longer and finish no image sooner. None where one guided request more (ROWS_MORE) has
        not been measured: more rows may be better still, and one row more may cost more than two do.
        """
        curve = self.curves.get(shape, {})
        if not curve:
            return None
        costs = {rows: seconds / rows for rows, seconds in curve.items()}
        least = min(rows for rows, cost in costs.items() if cost <= COST_TOLERANCE * min(costs.values()))
        return least if least + ROWS_MORE <= max(costs) else None


def _curve(steps: Iterable[tuple[int, float]]) -> dict[int, float]:
    measured: dict[int, list[float]] = {}
    for rows, seconds in steps:
        measured.setdefault(rows, []).append(seconds)
    return {
        rows: statistics.median(durations[-NUM_KEPT:])
        for rows, durations in sorted(measured.items())
        if len(durations) >= NUM_LEAST
    }
