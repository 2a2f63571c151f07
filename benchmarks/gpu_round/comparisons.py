"""Items that send requests through whole backends."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.architectures import checkpoint_for
from benchmarks.backends.spec import Backend, Device
from benchmarks.compare.agreement import Images, psnr
from benchmarks.compare.comparison import cells_of
from benchmarks.compare.process import BackendProcess, images_file, opened_together
from benchmarks.compare.records import Job, Measurement, Options
from benchmarks.gpu_round.plan import LEAST_IMAGES, REPEATS
from benchmarks.gpu_round.run_item import Found
from benchmarks.publishing import CACHE

SEQUENTIAL = ("script", "diffusers_best")  # their rate does not depend on how many wait
SHOWN_ROWS = (2, 4, 8, 16, 32)  # step times that are worth a figure
BESIDE_DIFFUSERS: tuple[Backend, ...] = ("script", "diffusers_best", "engine")
TRIAL: dict[str, Any] = {"arch": "tiny", "size": 64, "images": 2, "clients": 2, "max_steps": 4}  # on a CPU


def sd15(device: Device) -> Found:
    """SD1.5's architecture at 512 px, guided and with a single step, beside diffusers eager and compiled."""
    yield from _compared(_options(device, "sd15", 512, ("guided", "single"), images=48, clients=16))


def sdxl_turbo(device: Device) -> Found:
    """SDXL's architecture at 512 px with four unguided steps, as its distilled checkpoints are used."""
    yield from _compared(_options(device, "sdxl-turbo", 512, ("turbo",), images=48, clients=16))


def sdxl(device: Device) -> Found:
    """SDXL's architecture at 1024 px, guided."""
    yield from _compared(_options(device, "sdxl", 1024, ("guided",), images=16, clients=8, max_rows=8))


def service(device: Device) -> Found:
    """SD1.5's architecture at 512 px over HTTP behind HAProxy: the workload of `sd15`."""
    yield from _compared(_options(device, "sd15", 512, ("guided", "single"), images=48, clients=16), ["service_fast"])


def two_models(device: Device) -> Found:
    """Images per second of one engine alone, and of two processes at the same time on the same card."""
    options = _options(device, "sd15", 512, ("guided",), images=32, clients=8, max_rows=16)
    jobs = _jobs(options, ["engine"] * 3)
    with tempfile.TemporaryDirectory() as folder, opened_together(jobs, Path(folder)) as (single, *pair):
        alone = single.measure()
        yield "one engine alone, images/s", tuple(m.images_per_s for m in alone)
        yield "one engine alone, slowest s", tuple(max(m.latencies) for m in alone)
        with ThreadPoolExecutor(len(pair)) as threads:
            both = list(zip(*threads.map(BackendProcess.measure, pair), strict=True))
        yield "two engines together, images/s", tuple(sum(m.images_per_s for m in each) for each in both)
        yield "two engines together, slowest s", tuple(max(max(m.latencies) for m in each) for each in both)


def _options(device: Device, arch: str, size: int, settings: tuple[Any, ...], **workload: Any) -> Options:
    model = {"arch": arch, "size": size} if device == "cuda" else TRIAL
    return Options(
        **{**workload, **model},
        device=device,
        settings=settings,
        mode=("closed",),
        batch_size=1,
        together=True,
        backends=BESIDE_DIFFUSERS,
    )


def _jobs(options: Options, backends: Sequence[Backend]) -> list[Job]:
    """One job for each backend, which measures every cell REPEATS times with new images."""
    checkpoint = checkpoint_for(options.arch, CACHE)
    cells = [cell.model_copy(update={"repeat": i}) for i in range(REPEATS) for cell in cells_of(options, {})]

    def job(backend: Backend) -> Job:
        images = min(options.images, LEAST_IMAGES) if backend in SEQUENTIAL else options.images
        fewer = options.model_copy(update={"images": images})
        return Job(spec=options.spec(backend, checkpoint, CACHE), options=fewer, cells=tuple(cells))

    return [job(backend) for backend in backends]


def _compared(options: Options, backends: Sequence[Backend] = BESIDE_DIFFUSERS) -> Found:
    """Images per second of each backend and cell, dB to the first backend, and the engine's step times."""
    jobs = _jobs(options, backends)
    with tempfile.TemporaryDirectory() as folder, opened_together(jobs, Path(folder)) as processes:
        for job, process in zip(jobs, processes, strict=True):
            found = process.measure()
            for settings in options.settings:
                rounds = [m for m in found if m.settings == settings]
                yield f"{process.backend}, {settings}, images/s", tuple(m.images_per_s for m in rounds)
            if process is processes[0]:
                expected = _images(job, process)
            else:
                yield f"{process.backend}, least dB to {backends[0]}", (_least_db(_images(job, process), expected),)
            yield from _step_times(found)


def _images(job: Job, process: BackendProcess) -> list[Images]:
    return [np.load(images_file(process.folder, cell)) for cell in job.cells]


def _least_db(cells: list[Images], expected: list[Images]) -> float:
    """The lowest PSNR of an image; `expected` may have fewer images in each cell."""
    pairs = zip(cells, expected, strict=True)
    return min(psnr(image, other) for some, others in pairs for image, other in zip(some, others, strict=False))


def _step_times(found: list[Measurement]) -> Found:
    """The engine's milliseconds of a step by its rows, as of the end."""
    times = found[-1].step_times
    for rows in SHOWN_ROWS:
        if rows in times:
            yield f"engine, step of {rows} rows, ms", (1000 * times[rows],)
