"""How the folder job's worker repeats a request that the app could not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from ray.exceptions import TaskCancelledError
from ray.serve.exceptions import BackPressureError, RequestCancelledError

from batch.record.results import Result
from deployments.engine.errors import InvalidRequest
from deployments.errors import ModelNotReady
from tests.support.ledgers import a_job
from tests.support.workers import image_worker

FULL = BackPressureError(4, 4, status_code=429, retry_after_s=600)
NOT_READY = ModelNotReady("tiny", "loading")
CANCELLED: list[BaseException] = [asyncio.CancelledError(), TaskCancelledError(), RequestCancelledError("1")]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


async def run(folder: Path, errors: list[BaseException]) -> Result:
    """The result of one image whose router raises `errors` before it answers."""
    result, _ = await image_worker(folder, errors).run(a_job())
    return result


@pytest.mark.parametrize(
    "errors", [[], [FULL] * 20, [NOT_READY] * 6, [*[NOT_READY] * 6, FULL] * 3], ids=["none", "full", "failing", "both"]
)
async def test_request_is_repeated_until_it_is_answered(tmp_path: Path, errors: list[Exception]):
    result = await run(tmp_path, [*errors])
    assert (result.error_type, result.attempts) == (None, len(errors) + 1)


async def test_request_that_serve_cancels_is_repeated(tmp_path: Path):
    result = await run(tmp_path, [*CANCELLED])
    assert (result.error_type, result.attempts) == (None, len(CANCELLED) + 1)


async def test_request_that_serve_always_cancels_fails_by_its_reason(tmp_path: Path):
    result = await run(tmp_path, [asyncio.CancelledError()] * 7)
    assert (result.error_type, result.error) == ("RequestAborted", "the request was cancelled by Serve")


async def test_image_of_a_cancelled_job_is_not_asked_for_again(tmp_path: Path):
    waiting = asyncio.Event()

    class Router(list[BaseException]):
        def pop(self, *_: object) -> BaseException:
            waiting.set()
            return NOT_READY

    task = asyncio.create_task(run(tmp_path, Router([NOT_READY])))
    await waiting.wait()
    task.cancel()
    assert (await task).error_type == "CancelledError"


async def test_image_that_ends_its_process_fails_alone(tmp_path: Path):
    result = await run(tmp_path, [SystemExit(0)])
    assert (result.error_type, result.error) == ("SystemExit", "0")


async def test_seventh_failure_in_a_row_ends_the_image(tmp_path: Path):
    result = await run(tmp_path, [NOT_READY] * 7)
    assert (result.error_type, result.attempts) == ("ModelNotReady", 7)


async def test_request_that_can_never_succeed_is_not_repeated(tmp_path: Path):
    result = await run(tmp_path, [InvalidRequest("no such sampler", "sampler")])
    assert (result.error_type, result.attempts) == ("InvalidRequest", 1)
