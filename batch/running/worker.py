"""Makes one image: reads and prepares the source, calls the router, finishes and writes the result.

The folder job and the one-image command share this code. Every failure of an image ends in its own Result.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from stamina import AsyncRetryingCaller

from batch.planning.naming import FORMATS
from batch.record.results import Job, Result
from batch.report.thumbnails import Pair, thumbnail
from batch.storage.storage import FileTooLarge, Storage
from deployments.config import Limits
from deployments.engine.errors import RequestAborted
from deployments.errors import ModelNotReady, cause_of
from deployments.images import flow
from deployments.images.codec import ImageTooLarge, image_errors_name
from deployments.images.flow import PreparedImage
from deployments.images.masks import MaskFile
from deployments.schemas import Img2ImgResult

# Someone else's failure: the same request may well succeed on another replica, or on this one restarted.
TRANSIENT = (RayActorError, DeploymentUnavailableError, ModelNotReady, RequestAborted)
# Six pauses of 1 to 30 s, about a minute together: time for a model to load again.
RETRY_TRANSIENT = AsyncRetryingCaller(attempts=7, timeout=None, wait_initial=1, wait_max=30).on(TRANSIENT)


@dataclass(frozen=True, slots=True)
class ImageWorker:
    """Turns jobs into results, any number at a time. `router` is the handle to the app's ingress."""

    router: DeploymentHandle
    limits: Limits
    inputs: Storage
    outputs: Storage

    async def run(self, job: Job) -> tuple[Result, Pair | None]:
        """Make and write one image; also return its thumbnails. Never raises: a failure is a Result with the error."""
        started = time.perf_counter()
        facts: dict[str, Any] = {"attempts": 0}
        pair = None
        try:
            data, pair = await self.make(job, facts)
            await asyncio.to_thread(self.outputs.write, job.output, data)
            facts["output_bytes"] = len(data)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            cause, pair = cause_of(error), None
            facts |= {"error_type": type(cause).__name__, "error": str(cause)}
        return Result.of(job, **facts, total_s=time.perf_counter() - started), pair

    async def make(self, job: Job, facts: dict[str, Any]) -> tuple[bytes, Pair]:
        """The file of one image and its thumbnails. Adds a Result's fields to `facts`. Raises the image's error."""
        image, before = await asyncio.to_thread(self._prepare, job, facts)
        result = await self._call_router(job, image, facts)
        facts |= {
            "num_denoise_steps": result.num_denoise_steps,
            "truncated": result.truncated,
            "queued_s": result.timings.queued_s,
            "denoise_s": result.timings.denoise_s,
        }
        return await asyncio.to_thread(_finish, job, image, before, result)

    def _prepare(self, job: Job, facts: dict[str, Any]) -> tuple[PreparedImage, bytes]:
        """The prepared image, and the source's thumbnail."""
        data = self._read(job.source)
        source = flow.decode(data, self.limits)
        facts["source_sha256"] = hashlib.sha256(data).hexdigest()
        facts["source_width"], facts["source_height"] = facts["width"], facts["height"] = source.size
        mask = None if job.mask is None else self._read_mask(job.mask)
        image = flow.prepare(source, self.limits, job.settings.max_side, mask)
        if not job.strip:
            image = replace(image, exif=flow.exif_of(data))
        if mask is not None:
            facts["mask_sha256"] = hashlib.sha256(mask.data).hexdigest()
        return image, thumbnail(source.pixels, source.icc_profile)

    def _read_mask(self, path: str) -> MaskFile:
        with image_errors_name("mask"):
            return MaskFile(self._read(path), "white")

    def _read(self, path: str) -> bytes:
        try:
            return self.inputs.read(path, self.limits.max_upload_bytes)
        except FileTooLarge as error:
            raise ImageTooLarge(str(error)) from error

    async def _call_router(self, job: Job, image: PreparedImage, facts: dict[str, Any]) -> Img2ImgResult:
        """The router's result. Retries while the app is full, up to deadline_s, and after transient failures."""
        retry_full = AsyncRetryingCaller(attempts=None, timeout=self.limits.deadline_s, wait_initial=1, wait_max=30)
        return await retry_full(_pause_if_full, RETRY_TRANSIENT, self._call_once, job, image, facts)

    async def _call_once(self, job: Job, image: PreparedImage, facts: dict[str, Any]) -> Img2ImgResult:
        facts["attempts"] += 1
        response = self.router.img2img.remote(image.pixels, job.settings, "folder", uuid.uuid4().hex, image.mask)
        deadline = asyncio.timeout(self.limits.deadline_s)
        try:
            async with deadline:
                with _aborts_by_serve():
                    result: Img2ImgResult = await response
                return result
        except TimeoutError as error:
            if not deadline.expired():
                raise
            response.cancel()
            raise TimeoutError(f"no answer within {self.limits.deadline_s:g} s") from error


@contextmanager
def _aborts_by_serve() -> Iterator[None]:
    """Raises RequestAborted for a request that Serve cancels, as it does when it stops a replica."""
    task = asyncio.current_task()
    assert task is not None
    try:
        yield
    except (asyncio.CancelledError, TaskCancelledError) as error:
        if task.cancelling():
            raise
        raise RequestAborted("the request was cancelled by Serve") from error


def _finish(job: Job, image: PreparedImage, before: bytes, result: Img2ImgResult) -> tuple[bytes, Pair]:
    """The file, in the format of its name, and the thumbnails of the source and of the result."""
    format = FORMATS[PurePosixPath(job.output).suffix.lower()]
    finished = flow.finish(image, result.pixels, result.settings, format)
    return finished.data, Pair(before, thumbnail(finished.pixels, image.icc_profile))


def _pause_if_full(error: Exception) -> bool | float:
    """Whether the app is full; if it says for how many seconds to wait, that number."""
    if not isinstance(error, BackPressureError):
        return False
    return getattr(cause_of(error), "retry_after_s", None) or True
