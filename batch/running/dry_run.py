"""A dry run: the number of images of each model, the unreadable source images, and the expected duration."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rich.progress import track
from rich.table import Table

from batch.display import CONSOLE, LISTED_FAILURES, failure_text, rate_text, seconds_text
from batch.record.results import Job, Result
from batch.running.worker import ImageWorker
from batch.storage.storage import FileTooLarge, Storage
from deployments.config import Limits
from deployments.images.codec import ImageError, decode_image

PROBES = 16  # images made and discarded to measure the rate
PROBE_S = 60.0  # limit of the measurement


class Measurement(NamedTuple):
    """The number of images done and failed, and the seconds until the last one was done."""

    done: int
    failed: int
    seconds: float


def estimate(
    jobs: Sequence[Job], inputs: Storage, limits: Limits, get_worker: Callable[[], ImageWorker], concurrency: int
) -> None:
    """Print the work and its duration. Reads every source image, makes a few images, and writes nothing."""
    failures = list(unreadable(jobs, inputs, limits))
    for result in failures[:LISTED_FAILURES]:
        CONSOLE.print(failure_text(result))
    failed = {result.source for result in failures}
    todo = [job for job in jobs if job.source not in failed]
    table = Table("model", "images")
    for model in sorted({job.settings.model for job in todo}):
        table.add_row(model, str(sum(job.settings.model == model for job in todo)))
    CONSOLE.print(table)
    CONSOLE.print(f"{len(todo)} to make, {len(failures)} unreadable")
    if todo:
        CONSOLE.print(forecast(len(todo), asyncio.run(probe(todo, get_worker(), concurrency))))


def forecast(total: int, measured: Measurement) -> str:
    """A message with the duration of `total` images."""
    failures = f", {measured.failed} failed" if measured.failed else ""
    if not measured.done:
        return f"No rate measured: no image was done within {PROBE_S:g} s{failures}"
    rate = measured.done / measured.seconds
    duration = seconds_text(total / rate)
    return f"Measured on {measured.done} images{failures}: {rate_text(rate)}, about {duration} in total"


def unreadable(jobs: Sequence[Job], inputs: Storage, limits: Limits) -> Iterator[Result]:
    """A failed Result for each source and mask that is no image within the limits."""

    def check(path: str) -> Result | None:
        try:
            data = inputs.read(path, limits.max_upload_bytes)
            decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)
        except (OSError, FileTooLarge, ImageError) as error:
            return Result(source=path, error_type=type(error).__name__, error=str(error))
        return None

    paths = dict.fromkeys(path for job in jobs for path in (job.source, job.mask) if path is not None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check, paths)
        tracked = track(results, "reading", len(paths), console=CONSOLE, disable=not CONSOLE.is_terminal)
        yield from filter(None, tracked)


async def probe(jobs: Sequence[Job], worker: ImageWorker, concurrency: int) -> Measurement:
    """Make up to PROBES images, spread over `jobs`.

    The first image of each model is made before the clock starts, as it takes longer than the others.
    """
    count = min(PROBES, len(jobs))
    chosen = [jobs[i * len(jobs) // count] for i in range(count)]
    first = {job.settings.model: job for job in chosen}
    await asyncio.gather(*(worker.make(job, {"attempts": 0}) for job in first.values()), return_exceptions=True)
    slots = asyncio.Semaphore(concurrency)
    started = time.monotonic()

    async def make(job: Job) -> float:
        """The seconds until the image was done."""
        async with slots:
            await worker.make(job, {"attempts": 0})
        return time.monotonic() - started

    tasks = [asyncio.create_task(make(job)) for job in chosen]
    finished, unfinished = await asyncio.wait(tasks, timeout=PROBE_S)
    for task in unfinished:
        task.cancel()
    outcomes = await asyncio.gather(*finished, return_exceptions=True)
    times = [outcome for outcome in outcomes if isinstance(outcome, float)]
    return Measurement(len(times), len(finished) - len(times), max(times, default=0.0))
