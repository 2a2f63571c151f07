"""Draws a record as bars: images per second and latency of every way in every workload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.records import OURS, Record
from benchmarks.report import title
from benchmarks.summary import Row, Spread, cells, rows

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QUANTITIES: dict[str, Callable[[Row], Spread | None]] = {
    "images/s": lambda row: row.images_per_s,
    "mean latency, s": lambda row: row.mean,
    "p99 latency, s": lambda row: row.p99,
    "p99 latency of short requests, s": lambda row: row.short_p99,
}


def draw(record: Record, target: Path) -> None:
    """Write a PNG: one line of panels for each workload; the black lines are the least and the most over rounds."""
    workloads = cells(record)
    figure, panels = plt.subplots(
        len(workloads), len(QUANTITIES), figsize=(16, 3 * len(workloads)), squeeze=False, layout="constrained"
    )
    for line, (settings, mode) in zip(panels, workloads, strict=True):
        for panel, (name, quantity) in zip(line, QUANTITIES.items(), strict=True):
            _bars(panel, rows(record, settings, mode), quantity)
            panel.set_xlabel(name)
        line[0].set_title(title(record, settings, mode), loc="left")
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _bars(panel: Any, all_rows: list[Row], quantity: Callable[[Row], Spread | None]) -> None:
    spreads = {row.way: spread for row in reversed(all_rows) if (spread := quantity(row)) is not None}
    values = np.array(list(spreads.values())).reshape(-1, 3)
    median, least, most = values.T
    colours = ["tab:blue" if way in OURS else "tab:gray" for way in spreads]
    panel.barh(list(spreads), median, xerr=[median - least, most - median], color=colours)
