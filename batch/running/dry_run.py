"""What a run would do: how many images each model makes, which pictures cannot be read, and how long it takes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.progress import track
from rich.table import Table

from batch.display import CONSOLE, LISTED_FAILURES, failure_text, rate_text, seconds_text
from batch.record.results import Job, Result
from batch.running.worker import ImageWorker
from batch.storage.storage import FileTooLarge, Storage
from deployments.config import Limits
from deployments.images.codec import ImageError, decode_image

PROBES = 16  # images made, and thrown away, to measure the rate
PROBE_S = 60.0  # and the time after which those that are through are enough


def estimate(
    jobs: Sequence[Job], inputs: Storage, limits: Limits, get_worker: Callable[[], ImageWorker], concurrency: int
) -> None:
    """Print what there is to do. Reads every picture, makes a few images, and writes nothing."""
    bad = list(unreadable(jobs, inputs, limits))
    for result in bad[:LISTED_FAILURES]:
        CONSOLE.print(failure_text(result))
    broken = {result.source for result in bad}
    sound = [job for job in jobs if job.source not in broken]
    table = Table("model", "images")
    for model in sorted({job.settings.model for job in sound}):
        table.add_row(model, str(sum(job.settings.model == model for job in sound)))
    CONSOLE.print(table)
    CONSOLE.print(f"{len(sound)} to make; {len(bad)} pictures cannot be read")
    if sound:
        CONSOLE.print(forecast(len(sound), *asyncio.run(probe(sound, get_worker(), concurrency))))


def forecast(total: int, count: int, seconds: float) -> str:
    """How long `total` images take where `count` took `seconds`, in words."""
    if not count:
        return f"no rate could be measured: no image was done within {PROBE_S:g} s"
    rate = count / seconds
    return f"measured on {count} images: {rate_text(rate)}; about {seconds_text(total / rate)} for all"


def unreadable(jobs: Sequence[Job], inputs: Storage, limits: Limits) -> Iterator[Result]:
    """A failed Result for each source and mask that is no picture, or not one within the limits."""

    def check(path: str) -> Result | None:
        try:
            data = inputs.read(path, limits.max_upload_bytes)
            decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)
        except (OSError, FileTooLarge, ImageError) as error:
            return Result(source=path, error_type=type(error).__name__, error=str(error))
        return None

    paths = dict.fromkeys(path for job in jobs for path in (job.source, job.mask) if path is not None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = pool.map(check, paths)
        shown = track(checked, "reading", len(paths), console=CONSOLE, disable=not CONSOLE.is_terminal)
        yield from filter(None, shown)


async def probe(jobs: Sequence[Job], worker: ImageWorker, concurrency: int) -> tuple[int, float]:
    """How many images were made, of up to PROBES from all over `jobs`, and the seconds for them.

    The first image of each model is made before the clock starts: it costs more than the rest.
    """
    count = min(PROBES, len(jobs))
    chosen = [jobs[i * len(jobs) // count] for i in range(count)]
    first = {job.settings.model: job for job in chosen}
    await asyncio.gather(*(worker.make(job, {"attempts": 0}) for job in first.values()), return_exceptions=True)
    room = asyncio.Semaphore(concurrency)
    done, last, started = 0, 0.0, time.monotonic()

    async def make(job: Job) -> None:
        nonlocal done, last
        async with room:
            await worker.make(job, {"attempts": 0})
        done, last = done + 1, time.monotonic() - started

    tasks = [asyncio.create_task(make(job)) for job in chosen]
    _, late = await asyncio.wait(tasks, timeout=PROBE_S)
    for task in late:
        task.cancel()
    return done, last
