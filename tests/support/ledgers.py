"""Jobs, their results and the records of them, for the tests of the ledger."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from batch.record.ledger import Ledger
from batch.record.results import RESULTS_FILE, Job, Result
from batch.storage.storage import Storage
from deployments.schemas import Settings
from tests.support.images import file_of, gradient

SETTINGS = Settings(
    model="tiny",
    prompt="a fox",
    negative_prompt=None,
    strength=0.5,
    guidance_scale=7.5,
    num_inference_steps=20,
    seed=2**63 - 1,
    sampler="euler",
    max_side=512,
)
IMAGE = file_of(gradient(), "png")


def a_job(**changes: Any) -> Job:
    values = {"source": "a.png", "output": "a_out.png", "settings": SETTINGS, "source_bytes": 5, "source_mtime_ns": 7}
    return Job(**(values | changes))


def job_of(sources: Storage) -> Job:
    """The job of an image and its mask as they lie there now."""
    infos = {info.path: info for info in sources.files()}
    image, mask = infos["a.png"], infos["mask.png"]
    return a_job(
        source_bytes=image.size,
        source_mtime_ns=image.mtime_ns,
        mask=mask.path,
        mask_bytes=mask.size,
        mask_mtime_ns=mask.mtime_ns,
    )


def make(outputs: Storage, job: Job, **facts: Any) -> Result:
    """The result of a job that is done, and its output."""
    outputs.write(job.output, IMAGE)
    digest = hashlib.sha256(IMAGE).hexdigest()
    known = {"output_bytes": len(IMAGE), "source_sha256": digest, "mask_sha256": digest if job.mask else None}
    return Result.of(job, **(known | facts))


def failed(job: Job) -> Result:
    return Result.of(job, error_type="NotAnImage", error="the image is empty (0 bytes)")


def record(outputs: Storage, *results: Result) -> None:
    ledger = Ledger(outputs)
    for result in results:
        ledger.append(result)
    ledger.close(ledger.read())


def is_done(outputs: Storage, job: Job, **choices: Any) -> bool:
    todo, finished = Ledger(outputs).done([job], outputs.files(), **choices)
    assert len(todo) + len(finished) == 1
    return bool(finished)


def lines_of(outputs: Storage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outputs.read(RESULTS_FILE, 10**9).splitlines()]
