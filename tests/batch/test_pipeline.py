"""Every job of the pipeline gets a result, whatever becomes of its row in Ray Data."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.record.results import Job, Result
from batch.report.thumbnails import Pair
from batch.running.pipeline import NO_RESULT, Pipeline
from batch.running.worker import ImageWorker
from tests.support.ledgers import a_job
from tests.support.workers import image_worker

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]


class Raising(ImageWorker):
    """Raises outside of its own handling of errors for `bad.png`."""

    async def run(self, job: Job) -> tuple[Result, Pair | None]:
        if job.output == "bad.png":
            raise MemoryError
        return Result.of(job), None


def test_image_whose_row_is_dropped_is_named_as_failed(tmp_path: Path):
    plain = image_worker(tmp_path, [])
    worker = Raising(None, plain.limits, plain.inputs, plain.outputs)  # type: ignore[arg-type]
    jobs = [a_job(output=f"{name}.png") for name in ("good", "bad", "fine")]
    results = {result.output: result.error_type for result, _ in Pipeline(worker, 16, print).run(jobs)}
    assert results == {"good.png": None, "bad.png": NO_RESULT, "fine.png": None}
