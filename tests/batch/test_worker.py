"""How the folder job's worker repeats a request that the app could not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from ray.serve.exceptions import BackPressureError

from batch.record.results import Result
from deployments.engine.errors import InvalidRequest
from deployments.errors import ModelNotReady
from tests.support.ledgers import a_job
from tests.support.workers import image_worker

FULL = BackPressureError(4, 4, status_code=429, retry_after_s=600)
NOT_READY = ModelNotReady("tiny", "loading")


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


async def run(folder: Path, errors: list[Exception]) -> Result:
    """The result of one image whose router raises `errors` before it answers."""
    result, _ = await image_worker(folder, errors).run(a_job())
    return result


@pytest.mark.parametrize(
    "errors", [[], [FULL] * 20, [NOT_READY] * 6, [*[NOT_READY] * 6, FULL] * 3], ids=["none", "full", "failing", "both"]
)
async def test_request_is_repeated_until_it_is_answered(tmp_path: Path, errors: list[Exception]):
    result = await run(tmp_path, [*errors])
    assert (result.error_type, result.attempts) == (None, len(errors) + 1)


async def test_seventh_failure_in_a_row_ends_the_image(tmp_path: Path):
    result = await run(tmp_path, [NOT_READY] * 7)
    assert (result.error_type, result.attempts) == ("ModelNotReady", 7)


async def test_request_that_can_never_succeed_is_not_repeated(tmp_path: Path):
    result = await run(tmp_path, [InvalidRequest("no such sampler", "sampler")])
    assert (result.error_type, result.attempts) == ("InvalidRequest", 1)
