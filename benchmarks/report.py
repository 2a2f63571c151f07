"""Turns result files into Markdown.

python -m benchmarks.report RESULTS... > docs/metrics.md
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.records import OTHER_PICTURES, OURS, WAYS, Mode, Record, SettingsKind, Way
from benchmarks.summary import LEAST_DB, SHORT_STEPS, Row, Spread, cells, ratio, rows
from deployments.config import REPO_ROOT

BASES: tuple[Way, ...] = ("script", "batch", "diffusers_best")
HEADERS = (
    "way",
    "numbers",
    "images/s",
    *(f"x {base}" for base in BASES),
    "mean s",
    "p50 s",
    "p99 s",
    f"p99 s, <= {SHORT_STEPS} steps",
    "slowdown mean",
    "slowdown p99",
    "dB to script",
    "MiB model / all",
)
PREAMBLE = """# Measurements

Written by `python -m benchmarks.report` from the files that `python -m benchmarks.compare` writes; not edited by
hand. Every way gets the same requests, with pictures that no other request has. Each runs in a process of its own, one
after the other, in turn within every round; with several rounds, numbers are medians, with the least and the most in
brackets. Latency counts from when a request is due: its arrival, or its client being free. Slowdown is a request's
latency divided by what the same request takes `script` when nothing else runs, the same divisors for every way.

{ways}

**What makes the comparison generous to the others.** The script loads its model once, not for every image. Batches
are formed from requests of equal settings wherever they stand in the queue, and calls run in threads, so that requests
queue up for the next one meanwhile. A diffusers call takes one strength, guidance and number of steps, so requests of
different settings cannot share one: padding them to the longest would give other pictures than were asked for.

"Numbers" is the format the networks compute in. "dB to script" is the lowest PSNR of a picture against the script's
(100: identical); where both compute in float32, the comparison fails below {least:g} dB, but for the ways that cannot
give the script's pictures: {others}. Memory is the peak of the largest process, and the sum of all processes' peaks
(Ray's own included; shared libraries count in each).
"""


def main(results: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Print the Markdown for these result files."""
    ways = "\n".join(f"- `{way}`: {what}" for way, what in WAYS.items())
    others = ", ".join(f"`{way}`" for way in OTHER_PICTURES)
    sections = [PREAMBLE.format(ways=ways, least=LEAST_DB, others=others)]
    sections += [_section(Record.model_validate_json(path.read_text()), path) for path in results]
    typer.echo("\n".join(sections))


def _section(record: Record, path: Path) -> str:
    machine, options = record.machine, record.options
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    link = os.path.relpath(path.resolve(), REPO_ROOT / "docs")
    plot = Path(link).with_suffix(".png")
    loads = [measurement.load_average for measurement in record.measurements]
    lines = [
        f"## {options.arch}, {options.size} px, {options.device}",
        "",
        f"    {options.command}",
        "",
        f"- {record.date}, commit {record.commit}; [raw values]({link}), [plot]({plot})",
        f"- {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB; GPU: {machine.gpu or 'none'}",
        f"- {versions}",
        f"- {options.images} images a cell, rounds: {options.rounds}; load average before a cell: "
        f"{min(loads):.1f} to {max(loads):.1f}",
        f"- pictures of different requests are at most {record.control_psnr:.1f} dB alike",
    ]
    for settings, mode in cells(record):
        lines += ["", f"### {title(record, settings, mode)}", "", *_table(rows(record, settings, mode))]
    return "\n".join(lines) + "\n"


def title(record: Record, settings: SettingsKind, mode: Mode) -> str:
    """What a cell's workload is, in words."""
    if mode == "closed":
        return f"{settings.capitalize()} settings, closed loop of {record.options.clients} clients"
    rate, load = record.rates[settings], record.options.load
    return f"{settings.capitalize()} settings, Poisson arrivals, {rate:.3g}/s: {load:g} of what the script can do"


def _table(all_rows: list[Row]) -> list[str]:
    lines = [HEADERS, ("---",) * len(HEADERS), *(cell_texts(row, all_rows) for row in all_rows)]
    return [*("| " + " | ".join(line) + " |" for line in lines), "", *notes(all_rows)]


def cell_texts(row: Row, all_rows: list[Row]) -> tuple[str, ...]:
    """The texts under HEADERS for one way."""
    speed = [ratio(row, base, all_rows, lambda r: r.images_per_s) for base in BASES]
    gpu = "" if row.gpu_mib is None else f", GPU {row.gpu_mib:.0f}"
    return (
        row.way,
        row.dtype,
        str(row.images_per_s),
        *("-" if value is None else f"{value:.2f}" for value in speed),
        str(row.mean),
        str(row.p50),
        str(row.p99),
        str(row.short_p99 or "-"),
        str(row.mean_slowdown or "-"),
        str(row.p99_slowdown or "-"),
        f"{row.psnr:.1f}",
        f"{row.model_mib:.0f} / {row.all_mib:.0f}{gpu}",
    )


def notes(all_rows: list[Row]) -> list[str]:
    """What the service costs over the engine, and how the latencies compare with the script's."""
    by_way = {row.way: row for row in all_rows}
    lines = []
    for way, name in (("service", "service"), ("service_fast", "service behind HAProxy")):
        if way in by_way and "engine" in by_way:
            part = by_way[way].images_per_s.median / by_way["engine"].images_per_s.median
            lines.append(f"The {name} makes {part:.1%} of the engine's images per second.")
    for way in OURS:
        if way in by_way and "script" in by_way:
            lines.append(f"Latency, `script` / `{way}`: {_gains(by_way['script'], by_way[way])}.")
    return lines


def _gains(script: Row, row: Row) -> str:
    pairs: list[tuple[str, Spread | None, Spread | None]] = [
        ("mean", script.mean, row.mean),
        ("p50", script.p50, row.p50),
        ("p99", script.p99, row.p99),
        (f"p99 of at most {SHORT_STEPS} steps", script.short_p99, row.short_p99),
    ]
    return ", ".join(f"{name} {a.median / b.median:.2f}" for name, a, b in pairs if a and b)


if __name__ == "__main__":
    typer.run(main)
