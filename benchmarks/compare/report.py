"""A comparison as tables on the console."""

from __future__ import annotations

from rich.table import Table

from benchmarks.backends.spec import Backend
from benchmarks.compare.records import Mode, Record, SettingsKind
from benchmarks.compare.summary import Row, cells, ratio, rows
from benchmarks.publishing import console
from benchmarks.spread import tail_name

BASES: tuple[Backend, ...] = ("script", "diffusers_best")


def show(record: Record) -> None:
    """Print a table for each workload."""
    for settings, mode in cells(record):
        console.print(table_of(record, settings, mode))


def table_of(record: Record, settings: SettingsKind, mode: Mode) -> Table:
    """One line for each backend of a workload."""
    all_rows = rows(record, settings, mode)
    last = tail_name(all_rows[0].images)
    head = ["backend", "dtype", "images/s", *(f"x {base}" for base in BASES), "mean s", "median s", f"{last} s"]
    head += ["slowdown mean", f"slowdown {last}", "dB to script", "MiB model / all"]
    table = Table(*head, title=title(record, settings, mode))
    for row in all_rows:
        table.add_row(*_texts(row, all_rows))
    return table


def title(record: Record, settings: SettingsKind, mode: Mode) -> str:
    """The workload in words."""
    options = record.options
    model = f"{options.arch}, {options.size} px, {settings} settings"
    if mode == "closed":
        return f"{model}, closed loop of {options.clients} clients"
    return f"{model}, Poisson arrivals, {record.rates[settings]:.3g}/s: {options.load:g} of the script's capacity"


def _texts(row: Row, all_rows: list[Row]) -> tuple[str, ...]:
    speed = [ratio(row, base, all_rows, lambda r: r.images_per_s) for base in BASES]
    gpu = "" if row.gpu_mib is None else f", GPU {row.gpu_mib:.0f}"
    return (
        row.backend,
        row.dtype,
        str(row.images_per_s),
        *("-" if value is None else f"{value:.2f}" for value in speed),
        *(str(latency) for latency in (row.mean, row.median, row.tail)),
        str(row.mean_slowdown or "-"),
        str(row.tail_slowdown or "-"),
        f"{row.psnr:.1f}",
        f"{row.model_mib:.0f} / {row.all_mib:.0f}{gpu}",
    )
