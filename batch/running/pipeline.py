"""The folder job's Ray Data pipeline: jobs in, results out as they come, memory flat in the number of images."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batch.record.results import Job, Result
from batch.report.thumbnails import Pair
from batch.running.tracker import STOPPED, Report, Tracker
from batch.running.worker import ImageWorker

BLOCK_IMAGES = 64  # Ray Data's own work is per block, and a killed process does at most one block's check again
IMAGES_PER_ACTOR = 16  # decoding and encoding for about this many keeps one process busy
CALLS_PER_ACTOR = 2  # the next block starts while the last images of one are under way
ACTOR_CPUS = 0.1  # they mostly wait, and a small machine must fit them beside the models
PATIENCE_S = 0.5
WORKER_DIED = "WorkerDied"
MAX_STARTS = 2  # Ray Data starts a block again, without end, when the process that worked on it died


class Pipeline:
    """Runs jobs; `stop`, from any thread, lets those in flight end and starts no other."""

    def __init__(self, worker: ImageWorker, concurrency: int) -> None:
        self._worker = worker
        self._concurrency = concurrency
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Result, Pair | None]]:
        """The result of every job and its thumbnails, in order of completion, at most `concurrency` in flight.

        An image that kills the process it is worked on in takes the images beside it along. So those get a second
        try, one at a time, and only the culprit fails. Raises what Ray Data fails with.
        """
        pending = dict(enumerate(jobs))
        for in_flight, last_try in ((self._concurrency, False), (1, True)):
            if not pending or self._stop.is_set():
                return
            for report in self._reports(pending, in_flight):
                result = Result.model_validate_json(report.result)
                if last_try or result.error_type != WORKER_DIED:
                    del pending[report.number]
                    yield result, report.pair

    def _reports(self, jobs: dict[int, Job], in_flight: int) -> Iterator[Report]:
        """One pass over the jobs. The tracker lives beside this program: another node's death does not take it."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        tracker = ray.remote(num_cpus=0, scheduling_strategy=here)(Tracker).remote()
        flow = _Flow(_dataset(jobs, self._worker, tracker, in_flight))
        flow.start()
        stopping = False
        while True:
            if self._stop.is_set() and not stopping:
                stopping = True
                ray.get(tracker.stop.remote())
            # Asked before the results are taken: what comes before the end is taken before the end counts.
            ended = flow.ended.is_set() or (stopping and not ray.get(tracker.num_in_flight.remote()))
            reports: list[Report] = ray.get(tracker.take.remote(PATIENCE_S))
            yield from reports
            if ended and not reports:
                break
        if flow.error is not None:
            raise flow.error


class _Flow(threading.Thread):
    """Pulls a dataset through, whose rows say nothing: the results come by way of the tracker."""

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
    """The worker on rows of a number and a job as JSON; at most `in_flight` images at a time, whatever the calls."""

    def __init__(self, worker: ImageWorker, tracker: ActorHandle[Tracker], in_flight: int) -> None:
        self._worker = worker
        self._tracker = tracker
        self._room = asyncio.Semaphore(in_flight)
        self._stopped = False

    async def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        number = int(row["number"])
        async with self._room:
            times = STOPPED if self._stopped else await self._tracker.start.remote(number)
            self._stopped = times == STOPPED
            if times > 0:
                await self._tracker.finish.remote(await self._work(number, Job.model_validate_json(row["job"]), times))
        return {"number": number}

    async def _work(self, number: int, job: Job, times: int) -> Report:
        if times > MAX_STARTS:
            error = "the process that worked on it died, again and again"
            return Report(number, Result.of(job, error_type=WORKER_DIED, error=error).model_dump_json(), None)
        result, pair = await self._worker.run(job)
        return Report(number, result.model_dump_json(), pair)


def _dataset(jobs: dict[int, Job], worker: ImageWorker, tracker: ActorHandle[Tracker], in_flight: int) -> Dataset:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    rows = [{"number": number, "job": job.model_dump_json()} for number, job in jobs.items()]
    num_actors = math.ceil(in_flight / IMAGES_PER_ACTOR)
    num_blocks = max(math.ceil(len(rows) / BLOCK_IMAGES), min(len(rows), CALLS_PER_ACTOR * num_actors))
    return ray.data.from_items(rows, override_num_blocks=num_blocks).map(
        RowWorker,
        fn_constructor_args=(worker, tracker, in_flight // num_actors),
        compute=ActorPoolStrategy(size=num_actors, max_concurrent_calls_per_actor=CALLS_PER_ACTOR),
        num_cpus=ACTOR_CPUS,
    )
