"""From raw values to verdicts: rates and medians of a run, the bounds they are held against, table and file."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine, git_commit
from deployments.config import REPO_ROOT, Strict

RESULTS = REPO_ROOT / "benchmarks" / "results" / "folder"
OutputDir = Annotated[Path, typer.Option(help="Where the numbers go.")]
CONSOLE = Console(width=max(Console().width, 140), highlight=False, soft_wrap=True)
QUARTERS = 4


class Bound(Strict):
    """A figure and what it has to be, `limit` itself included."""

    what: str
    value: float
    kind: Literal["at most", "at least"]
    limit: float

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit if self.kind == "at most" else self.value >= self.limit


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


def conclude(name: str, bounds: Sequence[Bound], values: dict[str, Any], output_dir: Path) -> int:
    """Print the bounds of the script `name`, write them with the values to a file of its name; the exit code."""
    table = Table("figure", "value", "bound", "verdict")
    for bound in bounds:
        verdict = "[green]met[/]" if bound.is_met else "[red]missed[/]"
        table.add_row(bound.what, f"{bound.value:.3f}", f"{bound.kind} {bound.limit:g}", verdict)
    CONSOLE.print(table)
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "command": shlex.join(["python", "-m", f"benchmarks.folder.{name}", *sys.argv[1:]]),
        "machine": describe_machine().model_dump(),
        "load_average": os.getloadavg(),
        "bounds": [{**bound.model_dump(), "is_met": bound.is_met} for bound in bounds],
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / f"{name}.json"
    target.write_text(json.dumps({**facts, **values}, indent=1) + "\n")
    CONSOLE.print(f"wrote {target}")
    return int(not all(bound.is_met for bound in bounds))
