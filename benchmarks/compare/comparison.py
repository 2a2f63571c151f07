"""Runs backends in turn, the same requests through each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.backends.spec import Backend
from benchmarks.compare.agreement import Images, check_images, control
from benchmarks.compare.process import BackendFailed, BackendProcess, images_file, opened_together
from benchmarks.compare.records import Cell, Job, Measurement, Mode, Options, Record, SettingsKind
from benchmarks.compare.workload import poisson_arrivals
from benchmarks.publishing import console

Measured = Iterator[tuple[list[Measurement], Path]]


def compare(options: Options, facts: dict[str, Any], checkpoint: Path, cache_dir: Path, scratch: Path) -> Record:
    """Run every backend in turn, `options.rounds` times. Exports of the checkpoint are kept in `cache_dir`.

    `facts` are the record's `provenance`. A backend that fails is reported and left out. Raises BackendFailed for the
    script, ImagesDiffer for a backend with other images.
    """
    solo = _solo_latencies(options, checkpoint, cache_dir, scratch) if "poisson" in options.mode else {}
    rates = {settings: options.load * len(seconds) / sum(seconds) for settings, seconds in solo.items()}
    workloads = cells_of(options, rates)
    references: dict[Cell, tuple[Images, str]] = {}  # the script's images and dtype
    measurements: list[Measurement] = []
    for number in range(options.rounds):
        jobs = jobs_of(options, workloads, checkpoint, cache_dir)
        heading = f"round {number + 1} of {options.rounds}"
        for found, folder in _measured(heading, jobs, scratch / str(number), together=options.together):
            measurements += checked(found, workloads, folder, references)
    return Record(
        **facts,
        options=options,
        rates=rates,
        solo=solo,
        control_psnr=max(control(images) for images, _ in references.values()),
        measurements=tuple(measurements),
    )


def cells_of(options: Options, rates: dict[SettingsKind, float]) -> tuple[Cell, ...]:
    """Every workload of the comparison. `rates` are the Poisson arrivals per second."""

    def cell(settings: SettingsKind, mode: Mode) -> Cell:
        arrivals = poisson_arrivals(options, rates[settings]) if mode == "poisson" else None
        return Cell(settings=settings, mode=mode, clients=options.clients, arrivals=arrivals)

    return tuple(cell(settings, mode) for settings in options.settings for mode in options.mode)


def jobs_of(options: Options, cells: tuple[Cell, ...], checkpoint: Path, cache_dir: Path) -> list[Job]:
    """One job for each backend."""
    return [
        Job(spec=options.spec(backend, checkpoint, cache_dir), options=options, cells=cells)
        for backend in options.backends
    ]


def checked(
    found: list[Measurement], cells: tuple[Cell, ...], folder: Path, references: dict[Cell, tuple[Images, str]]
) -> list[Measurement]:
    """A process's measurements with their PSNR. The first images of a cell, the script's, become its reference.

    Raises ImagesDiffer.
    """
    measurements = []
    for cell, measurement in zip(cells, found, strict=True):
        images = np.load(images_file(folder, cell))
        expected, dtype = references.setdefault(cell, (images, measurement.dtype))
        measurements.append(check_images(measurement, images, expected, dtype))
    return measurements


def _solo_latencies(
    options: Options, checkpoint: Path, cache_dir: Path, scratch: Path
) -> dict[SettingsKind, tuple[float, ...]]:
    """The script's latency (s) for each of the Poisson workloads' requests alone, in their order."""
    alone = tuple(Cell(settings=settings, mode="poisson", clients=1) for settings in options.settings)
    job = Job(spec=options.spec("script", checkpoint, cache_dir), options=options, cells=alone)
    ((found, _),) = _measured("each request alone", [job], scratch / "solo")
    return {measurement.settings: measurement.latencies for measurement in found}


def _measured(heading: str, jobs: list[Job], scratch: Path, *, together: bool = False) -> Measured:
    """Each job's measurements and the folder of its images. `together` opens all before the first is measured."""
    with ExitStack() as stack:
        opened: dict[Backend, BackendProcess] = {}
        if together:
            opened = {process.backend: process for process in stack.enter_context(opened_together(jobs, scratch))}
        for job in jobs:
            console.print(f"{heading}: {job.spec.backend}")
            process = opened.get(job.spec.backend) or BackendProcess(job, scratch / job.spec.backend)
            stack.callback(process.stop)
            try:
                found = process.measure()
            except BackendFailed as error:
                if job.spec.backend == "script":
                    raise
                console.print(str(error), style="red", markup=False)
                continue
            yield found, process.folder
