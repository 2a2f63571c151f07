"""The folder job's Ray Data pipeline: jobs in, results out as they come, memory flat in the number of images."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext, Dataset

from batch.results import Job, Result
from batch.worker import ImageWorker

IMAGES_PER_ACTOR = 16  # decoding and encoding for about this many keeps one process busy
ACTOR_CPUS = 0.1  # they mostly wait, and a small machine must fit them beside the models
WORKER_DIED = "WorkerDied"
MAX_STARTS = 2  # Ray Data starts an image again, without end, when the process that worked on it died


def run_jobs(jobs: Iterable[Job], worker: ImageWorker, concurrency: int) -> Iterator[Result]:
    """The result of every job, in order of completion, with at most `concurrency` images in flight.

    An image that kills the process it is worked on in takes the images beside it along. So those get a second
    try, one at a time, and only the culprit fails.
    """
    pending = {job.source: job for job in jobs}
    for in_flight, last_try in ((concurrency, False), (1, True)):
        for line in _lines(pending.values(), worker, in_flight) if pending else ():
            result = Result.model_validate_json(line)
            if last_try or result.error_type != WORKER_DIED:
                del pending[result.source]
                yield result
    yield from map(_died, pending.values())


def _lines(jobs: Iterable[Job], worker: ImageWorker, in_flight: int) -> Iterator[str]:
    """Without prefetching, which would hold every result back until there is another."""
    for block in _dataset(jobs, worker, in_flight).iter_batches(batch_size=None, prefetch_batches=0):
        yield from block["result"]


def _dataset(jobs: Iterable[Job], worker: ImageWorker, in_flight: int) -> Dataset:
    """One image per block and call, so that a result is reported once it is there, whatever runs beside it."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    rows = [{"job": job.model_dump_json()} for job in jobs]
    num_actors = math.ceil(in_flight / IMAGES_PER_ACTOR)
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        RowWorker,
        fn_constructor_args=(worker, ray.remote(num_cpus=0)(Starts).remote()),
        compute=ActorPoolStrategy(size=num_actors, max_concurrent_calls_per_actor=in_flight // num_actors),
        num_cpus=ACTOR_CPUS,
    )


@dataclass(frozen=True, slots=True)
class RowWorker:
    """The worker on rows of one JSON column, which has the same type in every block."""

    worker: ImageWorker
    starts: ActorHandle[Starts]

    async def __call__(self, row: dict[str, str]) -> dict[str, str]:
        job = Job.model_validate_json(row["job"])
        started = await self.starts.add.remote(job.source)
        result = await self.worker.run(job) if started <= MAX_STARTS else _died(job)
        await self.starts.forget.remote(job.source)
        return {"result": result.model_dump_json()}


class Starts:
    """How often each image in flight was started; outlives the processes that die of one."""

    def __init__(self) -> None:
        self._starts: Counter[str] = Counter()

    def add(self, source: str) -> int:
        self._starts[source] += 1
        return self._starts[source]

    def forget(self, source: str) -> None:
        self._starts.pop(source, None)


def _died(job: Job) -> Result:
    return Result.of(job, error_type=WORKER_DIED, error="the process that worked on it died, again and again")
