"""Makes one image: reads and fits the source, asks the router, restores the size, writes the result atomically.

Both jobs share this code. Whatever goes wrong with an image ends in its own Result and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from batch.naming import FORMATS
from batch.results import Job, Result
from deployments.config import Limits
from deployments.engine.errors import RequestAborted
from deployments.http_errors import ModelNotReady
from deployments.images import SourceImage, decode_image, encode_image, fit_pixels, restore_size
from deployments.parameters import format_parameters
from deployments.schemas import Img2ImgResult

# Someone else's failure: the same request may well succeed on another replica, or on this one restarted.
TRANSIENT = (RayActorError, DeploymentUnavailableError, ModelNotReady, RequestAborted)
MAX_FAILURES = 7  # with the pauses below, about a minute: time for a model to load again
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class ImageWorker:
    """Turns jobs into results, any number at a time. `router` is the handle to the app's ingress.

    `run_id` is the same in every copy of the worker: a copy that takes over an image from one that was killed
    writes over the unfinished file, instead of leaving it behind.
    """

    router: DeploymentHandle
    limits: Limits
    input_folder: Path
    output_folder: Path
    run_id: uuid.UUID = field(default_factory=uuid.uuid4)

    async def run(self, job: Job) -> Result:
        """Make one image. Never raises: a failure is a Result with `error_type` and `error`."""
        started = time.perf_counter()
        facts: dict[str, Any] = {"attempts": 0}
        try:
            await self._make(job, facts)
        except (Exception, asyncio.CancelledError) as error:
            cause = _cause(error)
            facts |= {"error_type": type(cause).__name__, "error": str(cause)}
        return Result.of(job, **facts, total_s=time.perf_counter() - started)

    async def _make(self, job: Job, facts: dict[str, Any]) -> None:
        source = await asyncio.to_thread(self._read, job)
        size = source.size
        fitted = await asyncio.to_thread(
            fit_pixels, source.pixels, max_side=job.settings.max_side, min_side=self.limits.min_side
        )
        source = replace(source, pixels=fitted)  # the full picture need not wait in memory for its turn
        made = await self._ask(job, source, facts)
        await asyncio.to_thread(self._write, job, source, made, size)
        facts |= {
            "width": size[0],
            "height": size[1],
            "num_denoise_steps": made.num_denoise_steps,
            "truncated": made.truncated,
            "queued_s": made.timings.queued_s,
            "denoise_s": made.timings.denoise_s,
        }

    def _read(self, job: Job) -> SourceImage:
        with (self.input_folder / job.source).open("rb") as file:
            data = file.read(self.limits.max_upload_bytes + 1)
        return decode_image(data, max_bytes=self.limits.max_upload_bytes, max_pixels=self.limits.max_pixels)

    async def _ask(self, job: Job, source: SourceImage, facts: dict[str, Any]) -> Img2ImgResult:
        """The router's answer, waiting while it is full (up to deadline_s) and retrying transient failures."""
        give_up = time.monotonic() + self.limits.deadline_s
        failures = 0
        for pause_s in _pauses():
            facts["attempts"] += 1
            try:
                return await self._ask_once(job, source)
            except BackPressureError as error:
                if time.monotonic() > give_up:
                    raise
                pause_s = max(pause_s, getattr(_cause(error), "retry_after_s", None) or 0.0)
            except TRANSIENT:
                failures += 1
                if failures == MAX_FAILURES:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("pauses never end")

    async def _ask_once(self, job: Job, source: SourceImage) -> Img2ImgResult:
        response = self.router.img2img.remote(source.pixels, job.settings, "folder", uuid.uuid4().hex)
        deadline = asyncio.timeout(self.limits.deadline_s)
        try:
            async with deadline:
                result: Img2ImgResult = await response
                return result
        except TimeoutError as error:
            if not deadline.expired():
                raise
            response.cancel()
            raise TimeoutError(f"no answer within {self.limits.deadline_s:g} s") from error

    def _write(self, job: Job, source: SourceImage, made: Img2ImgResult, size: tuple[int, int]) -> None:
        path = self.output_folder / job.output
        data = encode_image(
            restore_size(made.pixels, size),
            FORMATS[path.suffix.lower()],
            parameters=format_parameters(made.settings, source.size),
            alpha=source.alpha,
            icc_profile=source.icc_profile,
        )
        write_atomically(path, data, path.with_name(f".{uuid.uuid5(self.run_id, job.output).hex}.part"))


def write_atomically(path: Path, data: bytes, partial: Path) -> None:
    """Write `path` by way of `partial`, so that it is absent, old or complete, whatever stops the program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _pauses() -> Iterator[float]:
    """Doubling seconds up to half a minute, spread out so that waiting images do not come back all at once."""
    longest = 1.0
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, LONGEST_PAUSE_S)


def _cause(error: BaseException) -> BaseException:
    """What the replica raised, out of Ray's wrapping."""
    return error.cause if isinstance(error, RayTaskError) else error
