"""Runs one item in a process of its own: `python -m benchmarks.gpu_round.run_item NAME DEVICE FILE`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import typer
from pydantic import TypeAdapter

from benchmarks.backends.spec import Device
from benchmarks.gpu_round.plan import chosen
from benchmarks.gpu_round.records import Figures

FIGURES = TypeAdapter(Figures)
Found = Iterator[tuple[str, tuple[float, ...]]]  # what an item's function yields


def main(name: str, device: Device, file: Path) -> None:
    """Write the figures to `file`, again after each, so that an item that is stopped leaves what it has."""
    (item,) = chosen(name)
    module, _, function = item.function.partition(":")
    run: Callable[[Device], Found] = getattr(import_module(f"benchmarks.gpu_round.{module}"), function)
    figures: Figures = {}
    for figure, values in run(device):
        figures[figure] = values
        file.write_bytes(FIGURES.dump_json(figures))


if __name__ == "__main__":
    typer.run(main)
