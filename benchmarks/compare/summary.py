"""From raw measurements to numbers to show: medians over rounds, ratios, and whether the images agree."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.backends.spec import Backend
from benchmarks.compare.records import Measurement, Mode, Record, SettingsKind
from benchmarks.spread import Spread, spread, tail

MIB = 1024**2


class Row(NamedTuple):
    """One backend in one cell. Latencies are seconds.

    A request's slowdown is its latency divided by the script's latency for it with nothing else running: 1 is a
    machine of one's own. `tail` is the 99th percentile or the maximum of `images` values a round (`spread.tail_name`).
    """

    backend: Backend
    dtype: str
    images: int
    images_per_s: Spread
    mean: Spread
    median: Spread
    tail: Spread
    mean_slowdown: Spread | None
    tail_slowdown: Spread | None
    psnr: float
    model_mib: float
    all_mib: float
    gpu_mib: float | None


def cells(record: Record) -> list[tuple[SettingsKind, Mode]]:
    """The workloads of a record, in the order they were measured."""
    return list(dict.fromkeys((measurement.settings, measurement.mode) for measurement in record.measurements))


def rows(record: Record, settings: SettingsKind, mode: Mode) -> list[Row]:
    """One row for each backend of a cell."""
    chosen = [m for m in record.measurements if (m.settings, m.mode) == (settings, mode)]
    solo = record.solo.get(settings, ()) if mode == "poisson" else ()
    return [
        _row([m for m in chosen if m.backend == backend], solo) for backend in dict.fromkeys(m.backend for m in chosen)
    ]


def slowdowns(latencies: Sequence[float], solo: Sequence[float]) -> list[float]:
    """Each request's latency divided by its latency alone, both in seconds and in the same order."""
    return [latency / alone for latency, alone in zip(latencies, solo, strict=True)]


def ratio(row: Row, base: Backend, all_rows: Sequence[Row], quantity: Callable[[Row], Spread]) -> float | None:
    """The row's median as a multiple of the base backend's; None if the base was not measured."""
    found = next((other for other in all_rows if other.backend == base), None)
    return None if found is None else quantity(row).median / quantity(found).median


def _row(rounds: list[Measurement], solo: Sequence[float]) -> Row:
    slow = [slowdowns(m.latencies, solo) for m in rounds] if solo else []
    gpu = [m.gpu_bytes for m in rounds if m.gpu_bytes is not None]
    return Row(
        backend=rounds[0].backend,
        dtype=rounds[0].dtype,
        images=len(rounds[0].latencies),
        images_per_s=spread(m.images_per_s for m in rounds),
        mean=spread(statistics.fmean(m.latencies) for m in rounds),
        median=spread(statistics.median(m.latencies) for m in rounds),
        tail=spread(tail(m.latencies) for m in rounds),
        mean_slowdown=spread(statistics.fmean(values) for values in slow) if slow else None,
        tail_slowdown=spread(tail(values) for values in slow) if slow else None,
        psnr=min(value for m in rounds for value in m.psnr),
        model_mib=max(m.model_bytes for m in rounds) / MIB,
        all_mib=max(m.all_bytes for m in rounds) / MIB,
        gpu_mib=max(gpu) / MIB if gpu else None,
    )
