"""The three comparisons that say where this project stands, in one run and one table.

python -m benchmarks.suite
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.compare import CACHE, RESULTS, compare, save
from benchmarks.processes import WayFailed
from benchmarks.records import Options, Record, SettingsKind, Way
from benchmarks.report import title
from benchmarks.runners import PackageMissing, check_installed
from benchmarks.summary import PicturesDiffer, Row, cells, ratio, rows

HEADERS = (
    "way",
    "numbers",
    "images/s",
    "x script",
    "x diffusers_best",
    "mean s",
    "p99 s",
    "slowdown mean",
    "slowdown p99",
)
console = Console(width=max(Console().width, 140))


def main(
    size: Annotated[int, typer.Option(help="Sides of the pictures of SD1.5's architecture, in pixels.")] = 256,
    images: Annotated[
        int, typer.Option(help="Of SD1.5's architecture; the quick parts make 3 and 6 times as many.")
    ] = 4,
    max_steps: Annotated[int, typer.Option(help="The most inference steps a request asks for.")] = 10,
    rounds: Annotated[int, typer.Option(help="How often each way runs each workload.")] = 1,
    settings: Annotated[str, typer.Option(help="Of SD1.5's architecture: mixed, uniform or both.")] = "mixed",
    competitors: Annotated[str, typer.Option(help="More ways for SD1.5's architecture: openvino,sdcpp")] = "",
    cache_dir: Annotated[Path, typer.Option(help="Where built checkpoints are kept for the next time.")] = CACHE,
    output_dir: Annotated[Path, typer.Option(help="Where the numbers and plots go.")] = RESULTS,
) -> None:
    """Run all parts, print them as one table and write each as `benchmarks.compare` does."""
    kinds: tuple[SettingsKind, ...] = ("uniform", "mixed") if settings == "both" else (settings,)  # type: ignore[assignment]
    more: tuple[Way, ...] = tuple(competitors.split(",")) if competitors else ()  # type: ignore[arg-type]
    parts = parts_of(size, images, max_steps, rounds, kinds, more)
    records = []
    try:
        check_installed(more)
        for options in parts:
            with tempfile.TemporaryDirectory() as scratch:
                records.append(compare(options, cache_dir, Path(scratch)))
            save(records[-1], output_dir)
    except (PackageMissing, PicturesDiffer, WayFailed) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    finally:
        console.print(table(records))
    if any(record.failed for record in records):
        raise typer.Exit(1)


def parts_of(
    size: int, images: int, max_steps: int, rounds: int, settings: tuple[SettingsKind, ...], more: tuple[Way, ...]
) -> list[Options]:
    """SD1.5's architecture in a closed loop, the embedded checkpoint over HTTP, and Poisson arrivals."""
    steps = {"rounds": rounds, "max_steps": max_steps}
    return [
        Options(
            arch="sd15",
            size=size,
            images=images,
            ways=("script", "diffusers_best", *more, "engine"),
            mode=("closed",),
            settings=settings,
            **steps,
        ),
        Options(
            arch="tiny",
            images=3 * images,
            ways=("script", "script_reload", "diffusers_best", "service", "service_fast"),
            mode=("closed",),
            settings=("mixed",),
            rounds=rounds,
        ),
        Options(
            arch="small",
            size=64,
            images=6 * images,
            ways=("script", "diffusers_best", "engine"),
            mode=("poisson",),
            settings=("mixed",),
            rounds=rounds,
            max_steps=max(14, max_steps),
        ),
    ]


def table(records: list[Record]) -> Table:
    """Every workload of every record, each under its title."""
    lines = Table(*HEADERS, title="the same requests through every way")
    for record in records:
        for settings, mode in cells(record):
            options = record.options
            lines.add_section()
            lines.add_row(f"[bold]{options.arch}, {options.size} px[/bold]: {title(record, settings, mode)}")
            all_rows = rows(record, settings, mode)
            for row in all_rows:
                lines.add_row(*cell_texts(row, all_rows))
    return lines


def cell_texts(row: Row, all_rows: list[Row]) -> tuple[str, ...]:
    """The texts under HEADERS for one way."""
    bases: tuple[Way, ...] = ("script", "diffusers_best")
    speed = [ratio(row, base, all_rows, lambda r: r.images_per_s) for base in bases]
    return (
        row.way,
        row.dtype,
        str(row.images_per_s),
        *("-" if value is None else f"{value:.2f}" for value in speed),
        str(row.mean),
        str(row.p99),
        str(row.mean_slowdown or "-"),
        str(row.p99_slowdown or "-"),
    )


if __name__ == "__main__":
    typer.run(main)
