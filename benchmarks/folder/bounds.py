"""Rates and medians of a run, the bounds they are held against, and the record of both."""

from __future__ import annotations

import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.publishing import PublishedRecord, provenance, write_record
from benchmarks.spread import Spread, spread
from deployments.config import Strict

CONSOLE = Console(width=max(Console().width, 140), highlight=False, soft_wrap=True)
QUARTERS = 4


class Bound(Strict):
    """A figure of every round, and what their median has to be, `limit` itself included."""

    what: str
    values: tuple[float, ...]
    kind: Literal["at most", "at least"]
    limit: float

    @property
    def measured(self) -> Spread:
        """The figure over the rounds."""
        return spread(self.values)

    @property
    def is_met(self) -> bool:
        median = self.measured.median
        return median <= self.limit if self.kind == "at most" else median >= self.limit


class FolderRecord(PublishedRecord):
    """The bounds of one command, and all values that it measured."""

    load_average: tuple[float, float, float]
    bounds: tuple[Bound, ...]
    values: dict[str, Any]


def quarter_rates(finished: Sequence[float]) -> list[float]:
    """Images per second in each quarter of the images, from the first finish (s, sorted) to the last."""
    edges = np.linspace(0, len(finished) - 1, QUARTERS + 1).round().astype(int)
    return rates_between(finished, [int(edge) for edge in edges])


def rates_between(finished: Sequence[float], edges: Sequence[int]) -> list[float]:
    """Images per second from one numbered finish to the next."""
    return [(b - a) / (finished[b] - finished[a]) for a, b in zip(edges, edges[1:], strict=False)]


def steady_rate(finished: Sequence[float], skipped: int) -> float:
    """Images per second after the first `skipped` finishes (s, sorted), which start-up delays."""
    return (len(finished) - skipped) / (finished[-1] - finished[skipped - 1])


def median_within(points: Iterable[tuple[int, float]], least: float, below: float) -> float:
    """The median value of the points (images done, value) with `least` <= images done < `below`.

    Raises ValueError if there is none.
    """
    values = [value for done, value in points if least <= done < below]
    if not values:
        raise ValueError(f"no sample was taken between {least:g} and {below:g} images: there must be more images")
    return statistics.median(values)


def folder_provenance(name: str, output_dir: Path, *, scratch: bool) -> dict[str, Any]:
    """The facts of the command `benchmarks.folder.NAME` for `conclude`: call it before measuring."""
    command = shlex.join(["python", "-m", f"benchmarks.folder.{name}", *sys.argv[1:]])
    return provenance(command, output_dir, scratch=scratch)


def conclude(
    name: str,
    facts: dict[str, Any],
    bounds: Sequence[Bound],
    values: dict[str, Any],
    output_dir: Path,
    *,
    scratch: bool,
    rounds: int,
    images: int,
) -> int:
    """Print the bounds of the command `benchmarks.folder.NAME` and write its record. Returns the exit code.

    `facts` are of `folder_provenance`, `images` those of each round.
    """
    table = Table("figure", "median (min..max)", "bound", "result")
    for bound in bounds:
        result = "[green]met[/]" if bound.is_met else "[red]missed[/]"
        table.add_row(bound.what, str(bound.measured), f"{bound.kind} {bound.limit:g}", result)
    CONSOLE.print(table)
    record = FolderRecord(**facts, load_average=os.getloadavg(), bounds=tuple(bounds), values=values)
    write_record(record, f"folder-{name}", output_dir, scratch=scratch, rounds=rounds, images=images)
    return int(not all(bound.is_met for bound in bounds))
