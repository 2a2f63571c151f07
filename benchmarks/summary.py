"""From raw measurements to numbers to show: medians over rounds, ratios, and whether the pictures agree."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.records import OTHER_PICTURES, Measurement, Mode, Record, SettingsKind, Way

Pictures = npt.NDArray[np.uint8]  # (images, height, width, 3)
IDENTICAL_DB = 100.0
LEAST_DB = 50.0  # between float32 pictures of one request: they come out near 85, and a guidance off by one near 40
SHORT_STEPS = 8
MIB = 1024**2


class PicturesDiffer(Exception):
    """A way gave other pictures than the script did, so its speed says nothing."""


class Spread(NamedTuple):
    """One quantity over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.least:.3g}-{self.most:.3g})"


class Row(NamedTuple):
    """One way in one cell. Latencies are seconds; `short_p99` is that of requests with at most 8 denoise steps.

    A request's slowdown is its latency divided by what it takes the script alone: 1 is a user's own machine.
    """

    way: Way
    dtype: str
    images_per_s: Spread
    mean: Spread
    p50: Spread
    p99: Spread
    short_p99: Spread | None
    mean_slowdown: Spread | None
    p99_slowdown: Spread | None
    psnr: float
    model_mib: float
    all_mib: float
    gpu_mib: float | None


def psnr(a: Pictures, b: Pictures) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB, at most IDENTICAL_DB."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, 10 * float(np.log10(255**2 / error)))


def check_pictures(
    measurement: Measurement, pictures: Pictures, expected: Pictures, expected_dtype: str
) -> Measurement:
    """The measurement with its pictures' PSNR.

    Raises PicturesDiffer if one is below LEAST_DB where both are float32 and the way is to give the script's pictures.
    """
    values = tuple(psnr(a, b) for a, b in zip(pictures, expected, strict=True))
    comparable = measurement.dtype == expected_dtype == "float32" and measurement.way not in OTHER_PICTURES
    if comparable and min(values) < LEAST_DB:
        raise PicturesDiffer(
            f"{measurement.way}, {measurement.settings}, {measurement.mode}: picture {int(np.argmin(values))} "
            f"is {min(values):.1f} dB from the script's; at least {LEAST_DB:g} dB are needed"
        )
    return measurement.model_copy(update={"psnr": values})


def control(pictures: Pictures) -> float:
    """The highest PSNR between neighbours of different requests: what a wrong picture would score at best."""
    return max((psnr(a, b) for a, b in zip(pictures, pictures[1:], strict=False)), default=0.0)


def cells(record: Record) -> list[tuple[SettingsKind, Mode]]:
    """The workloads of a record, in the order they were measured."""
    return list(dict.fromkeys((measurement.settings, measurement.mode) for measurement in record.measurements))


def rows(record: Record, settings: SettingsKind, mode: Mode) -> list[Row]:
    """One row for each way through a cell."""
    chosen = [m for m in record.measurements if (m.settings, m.mode) == (settings, mode)]
    solo = record.solo.get(settings, ()) if mode == "poisson" else ()
    return [_row([m for m in chosen if m.way == way], solo) for way in dict.fromkeys(m.way for m in chosen)]


def slowdowns(latencies: Sequence[float], solo: Sequence[float]) -> list[float]:
    """Each request's latency divided by its latency alone, both in seconds and in the same order."""
    return [latency / alone for latency, alone in zip(latencies, solo, strict=True)]


def ratio(row: Row, base: Way, all_rows: Sequence[Row], quantity: Callable[[Row], Spread]) -> float | None:
    """How many times the base way's median this row's is; None where the base was not measured."""
    found = next((other for other in all_rows if other.way == base), None)
    return None if found is None else quantity(row).median / quantity(found).median


def _row(rounds: list[Measurement], solo: Sequence[float]) -> Row:
    slow = [slowdowns(m.latencies, solo) for m in rounds] if solo else []
    short = [_short(m) for m in rounds]
    gpu = [m.gpu_bytes for m in rounds if m.gpu_bytes is not None]
    return Row(
        way=rounds[0].way,
        dtype=rounds[0].dtype,
        images_per_s=_spread([m.images_per_s for m in rounds]),
        mean=_spread([statistics.fmean(m.latencies) for m in rounds]),
        p50=_spread([_percentile(m.latencies, 50) for m in rounds]),
        p99=_spread([_percentile(m.latencies, 99) for m in rounds]),
        short_p99=_spread([_percentile(latencies, 99) for latencies in short]) if all(short) else None,
        mean_slowdown=_spread([statistics.fmean(values) for values in slow]) if slow else None,
        p99_slowdown=_spread([_percentile(values, 99) for values in slow]) if slow else None,
        psnr=min(value for m in rounds for value in m.psnr),
        model_mib=max(m.model_bytes for m in rounds) / MIB,
        all_mib=max(m.all_bytes for m in rounds) / MIB,
        gpu_mib=max(gpu) / MIB if gpu else None,
    )


def _short(measurement: Measurement) -> list[float]:
    pairs = zip(measurement.latencies, measurement.denoise_steps, strict=True)
    return [latency for latency, steps in pairs if steps <= SHORT_STEPS]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _percentile(values: Any, percent: float) -> float:
    return float(np.percentile(values, percent))
