"""Draws a long run of the folder job: memory and speed over the images done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.folder.verdict import rates_between

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = ("replica", "driver", "workers", "router", "tracker")
STRETCHES = 50  # of images, each with its speed


def draw(memory: Sequence[tuple[int, dict[str, float]]], finished: Sequence[float], target: Path) -> None:
    """Write a PNG: the MiB of each kind of process by images done, and the speed by sorted finish times (s)."""
    figure, (above, below) = plt.subplots(2, figsize=(9, 8), sharex=True, layout="constrained")
    for kind in SHOWN:
        points = [(done, by_kind[kind]) for done, by_kind in memory if 0 < done < len(finished) and kind in by_kind]
        above.plot(*np.array(points).T, label=kind)
    above.set_ylabel("unique memory, MiB")
    above.set_ylim(bottom=0)
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(SHOWN))
    edges = [int(edge) for edge in np.linspace(0, len(finished) - 1, STRETCHES + 1)]
    below.stairs(rates_between(finished, edges), edges)
    below.set_ylabel("images/s")
    below.set_ylim(bottom=0)
    below.set_xlabel("images done")
    figure.savefig(target, dpi=100)
    plt.close(figure)
