"""What a round on a GPU writes."""

from __future__ import annotations

from benchmarks.backends.spec import Device
from benchmarks.publishing import PublishedRecord
from benchmarks.spread import spread
from deployments.config import Strict

Figures = dict[str, tuple[float, ...]]  # by name and unit; one value for each repetition


class ItemResult(Strict):
    """One item: its seconds and figures.

    `reason` says why it was skipped, or why figures are missing. `output` is the end of a failed item's output.
    """

    name: str
    seconds: float = 0.0
    reason: str = ""
    output: str = ""
    figures: Figures = {}

    def texts(self) -> dict[str, str]:
        """Each figure as median (min..max)."""
        return {name: str(spread(values)) for name, values in self.figures.items()}


class RoundRecord(PublishedRecord):
    """All items of a round that had `minutes`."""

    device: Device
    minutes: float
    items: tuple[ItemResult, ...]
