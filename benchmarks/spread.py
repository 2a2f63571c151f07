"""One quantity over the rounds of a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

LEAST_FOR_PERCENTILES = 100  # values; of fewer, the 99th percentile is no more than the maximum


class Spread(NamedTuple):
    """Median, minimum and maximum over rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.least:.3g}..{self.most:.3g})"


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    each = list(values)
    return Spread(statistics.median(each), min(each), max(each))


def tail(values: Sequence[float]) -> float:
    """The 99th percentile; the maximum where there are fewer than LEAST_FOR_PERCENTILES values (see `tail_name`)."""
    return float(np.percentile(values, 99)) if len(values) >= LEAST_FOR_PERCENTILES else max(values)


def tail_name(count: int) -> str:
    """What `tail` gives for `count` values."""
    return "p99" if count >= LEAST_FOR_PERCENTILES else "maximum"
