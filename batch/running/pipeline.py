"""The folder job's Ray Data pipeline: jobs in, results out as they finish, in memory independent of their number."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batch.record.results import Job, Result
from batch.report.thumbnails import Pair
from batch.running.tracker import STOPPED, Report, Tracker
from batch.running.worker import ImageWorker
from deployments.images.memory import return_large_buffers
from deployments.ray_private import call_replicas_without_proxy

BLOCK_IMAGES = 64  # Ray Data's overhead is per block; a block is checked again after its process died
IMAGES_PER_ACTOR = 16  # decoding and encoding about this many keeps one process busy
CALLS_PER_ACTOR = 2  # at least: the next block starts while the last images of one are running
ACTOR_CPUS = 0.1  # actors mostly wait, and must fit beside the models on a small machine
POLL_S = 0.5
WORKER_DIED = "WorkerDied"
NO_RESULT = "NoResult"
MAX_STARTS = 2  # of an image: Ray Data repeats a block without limit when its process dies


class Pipeline:
    """Runs jobs. `stop`, from any thread, lets the running images finish and starts no other.

    `on_stopping` is then called with the number of the running images.
    """

    def __init__(self, worker: ImageWorker, concurrency: int, on_stopping: Callable[[int], object]) -> None:
        self._worker = worker
        self._concurrency = concurrency
        self._on_stopping = on_stopping
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Result, Pair | None]]:
        """The result of every job and its thumbnails, in order of completion, at most `concurrency` running.

        An image that kills its process also ends the images beside it. All of them get a second try, one at a time,
        so that only the image that kills fails. An image without a result, whose row Ray Data has dropped twice, fails
        as well. Raises the exception of Ray Data.
        """
        pending = dict(enumerate(jobs))
        for max_running, is_last_try in ((self._concurrency, False), (1, True)):
            if not pending or self._stop.is_set():
                return
            for report in self._reports(pending, max_running):
                result = Result.model_validate_json(report.result)
                if is_last_try or result.error_type != WORKER_DIED:
                    del pending[report.number]
                    yield result, report.pair
        if not self._stop.is_set():
            for job in pending.values():
                yield Result.of(job, error_type=NO_RESULT, error="no worker gave a result, in two tries"), None

    def _reports(self, jobs: dict[int, Job], max_running: int) -> Iterator[Report]:
        """One pass over the jobs. The tracker runs on this program's node, so that it survives the other nodes."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        tracker = ray.remote(num_cpus=0, scheduling_strategy=here)(Tracker).remote()
        flow = _Flow(_dataset(jobs, self._worker, tracker, max_running))
        flow.start()
        stopping = False
        while True:
            if self._stop.is_set() and not stopping:
                stopping = True
                self._on_stopping(ray.get(tracker.stop.remote()))
            # Read before the results are taken, so that no result arrives between the last `take` and the end.
            ended = flow.ended.is_set() or (stopping and not ray.get(tracker.num_running.remote()))
            reports: list[Report] = ray.get(tracker.take.remote(POLL_S))
            yield from reports
            if ended and not reports:
                break
        if flow.error is not None:
            raise flow.error


class _Flow(threading.Thread):
    """Executes a dataset and drops its rows, as the results arrive through the tracker."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(daemon=True, name="folder job")
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._dataset = dataset

    def run(self) -> None:
        try:
            for _ in self._dataset.iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()


class RowWorker:
    """Runs the worker on rows of a number and a job as JSON, at most `max_running` images at a time in all calls."""

    def __init__(self, worker: ImageWorker, tracker: ActorHandle[Tracker], max_running: int) -> None:
        call_replicas_without_proxy()
        return_large_buffers()
        self._worker = worker
        self._tracker = tracker
        self._slots = asyncio.Semaphore(max_running)
        self._stopped = False

    async def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        number = int(row["number"])
        async with self._slots:
            num_starts = STOPPED if self._stopped else await self._tracker.start.remote(number)
            self._stopped = num_starts == STOPPED
            if num_starts > 0:
                report = await self._work(number, Job.model_validate_json(row["job"]), num_starts)
                await self._tracker.finish.remote(report)
        return {"number": number}

    async def _work(self, number: int, job: Job, num_starts: int) -> Report:
        if num_starts > MAX_STARTS:
            error = f"the process that worked on the image died {MAX_STARTS} times"
            return Report(number, Result.of(job, error_type=WORKER_DIED, error=error).model_dump_json(), None)
        result, pair = await self._worker.run(job)
        return Report(number, result.model_dump_json(), pair)


def actors_for(num_images: int, max_running: int, num_cpus: int) -> int:
    """The number of actors: as many as the images that run at a time keep busy, but no more than CPUs."""
    return max(1, min(math.ceil(min(num_images, max_running) / IMAGES_PER_ACTOR), num_cpus))


def _dataset(jobs: dict[int, Job], worker: ImageWorker, tracker: ActorHandle[Tracker], max_running: int) -> Dataset:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    rows = [{"number": number, "job": job.model_dump_json()} for number, job in jobs.items()]
    num_actors = actors_for(len(rows), max_running, int(ray.cluster_resources().get("CPU", 1)))
    num_calls = max(CALLS_PER_ACTOR, math.ceil(max_running / num_actors / BLOCK_IMAGES))
    num_blocks = max(math.ceil(len(rows) / BLOCK_IMAGES), min(len(rows), num_calls * num_actors))
    return ray.data.from_items(rows, override_num_blocks=num_blocks).map(
        RowWorker,
        fn_constructor_args=(worker, tracker, max_running // num_actors),
        compute=ActorPoolStrategy(size=num_actors, max_concurrent_calls_per_actor=num_calls),
        num_cpus=ACTOR_CPUS,
    )
