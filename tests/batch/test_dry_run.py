"""A dry run's forecast."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from batch.running.dry_run import estimate
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from tests.support.ledgers import a_job
from tests.support.workers import image_worker

REFUSED = InvalidRequest("no such sampler", "sampler")


@pytest.mark.parametrize(
    ("num_refused", "words"),
    [
        (0, "Measured on 4 images: "),
        (2, "Measured on 2 images, 2 failed: "),
        (4, "No rate measured: no image was done within 60 s, 4 failed"),
    ],
)
def test_failed_images_are_counted_and_leave_no_traceback(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    num_refused: int,
    words: str,
):
    worker = image_worker(tmp_path, [REFUSED] * (1 + num_refused if num_refused else 0))  # one is made in advance
    jobs = [a_job(output=f"{number}.png") for number in range(4)]
    estimate(jobs, worker.inputs, Limits(), lambda: worker, 2)
    gc.collect()  # an exception that nobody retrieved is logged here
    assert words in capsys.readouterr().out
    assert caplog.records == []
