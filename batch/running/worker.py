"""Makes one image: reads and fits the source, asks the router, restores the size, writes the result.

Both jobs share this code. Whatever goes wrong with an image ends in its own Result and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from stamina import AsyncRetryingCaller

from batch.planning.naming import FORMATS
from batch.record.results import Job, Result
from batch.report.thumbnails import Pair, thumbnail
from batch.storage.storage import FileTooLarge, Storage
from deployments.config import Limits
from deployments.engine.errors import RequestAborted
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import (
    ImageTooLarge,
    SourceImage,
    decode_image,
    encode_image,
    fit_pixels,
    restore_size,
)
from deployments.images.masks import about_the_mask, fit_mask, paste_back, read_mask
from deployments.images.metadata import format_parameters
from deployments.schemas import Img2ImgResult
from deployments.service import ModelNotReady

# Someone else's failure: the same request may well succeed on another replica, or on this one restarted.
TRANSIENT = (RayActorError, DeploymentUnavailableError, ModelNotReady, RequestAborted)
# Six pauses of 1 to 30 s, about a minute together: time for a model to load again.
RETRY_TRANSIENT = AsyncRetryingCaller(attempts=7, timeout=None, wait_initial=1, wait_max=30).on(TRANSIENT)


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """What is kept of a source while its request waits: the whole picture only where a mask needs it again."""

    source: SourceImage  # its pixels fitted to the model
    size: tuple[int, int]  # the whole picture's
    before: bytes  # the thumbnail
    kept: tuple[Pixels, Mask] | None  # the whole picture, and how much of each pixel is to change, of 255


@dataclass(frozen=True, slots=True)
class ImageWorker:
    """Turns jobs into results, any number at a time. `router` is the handle to the app's ingress."""

    router: DeploymentHandle
    limits: Limits
    inputs: Storage
    outputs: Storage

    async def run(self, job: Job) -> tuple[Result, Pair | None]:
        """Make one image and write it; also its thumbnails. Never raises: a failure is a Result that says why."""
        started = time.perf_counter()
        facts: dict[str, Any] = {"attempts": 0}
        pair = None
        try:
            data, pair = await self.make(job, facts)
            await asyncio.to_thread(self.outputs.write, job.output, data)
            facts["output_bytes"] = len(data)
        except (Exception, asyncio.CancelledError) as error:
            cause, pair = _cause(error), None
            facts |= {"error_type": type(cause).__name__, "error": str(cause)}
        return Result.of(job, **facts, total_s=time.perf_counter() - started), pair

    async def make(self, job: Job, facts: dict[str, Any]) -> tuple[bytes, Pair]:
        """The file of one image and its thumbnails; `facts` hears what a Result says of them. Raises what fails."""
        prepared = await asyncio.to_thread(self._prepare, job, facts)
        made = await self._ask(job, prepared, facts)
        facts |= {
            "num_denoise_steps": made.num_denoise_steps,
            "truncated": made.truncated,
            "queued_s": made.timings.queued_s,
            "denoise_s": made.timings.denoise_s,
        }
        return await asyncio.to_thread(_finish, job, prepared, made)

    def _prepare(self, job: Job, facts: dict[str, Any]) -> _Prepared:
        source, facts["source_sha256"] = self._read(job.source)
        facts["source_width"], facts["source_height"] = facts["width"], facts["height"] = source.size
        fitted = fit_pixels(source.pixels, max_side=job.settings.max_side, min_side=self.limits.min_side)
        kept = None
        if job.mask is not None:
            with about_the_mask():
                picture, facts["mask_sha256"] = self._read(job.mask)
            kept = source.pixels, read_mask(picture, source.size)
        before = thumbnail(source.pixels, source.icc_profile)
        return _Prepared(replace(source, pixels=fitted), source.size, before, kept)

    def _read(self, path: str) -> tuple[SourceImage, str]:
        """The picture, and the SHA-256 of its file."""
        limit = self.limits.max_upload_bytes
        try:
            data = self.inputs.read(path, limit)
        except FileTooLarge as error:
            raise ImageTooLarge(str(error)) from error
        source = decode_image(data, max_bytes=limit, max_pixels=self.limits.max_pixels)
        return source, hashlib.sha256(data).hexdigest()

    async def _ask(self, job: Job, prepared: _Prepared, facts: dict[str, Any]) -> Img2ImgResult:
        """The router's answer. Retries while the app is full, up to deadline_s, and after transient failures."""
        retry_full = AsyncRetryingCaller(attempts=None, timeout=self.limits.deadline_s, wait_initial=1, wait_max=30)
        return await retry_full(_pause_if_full, RETRY_TRANSIENT, self._ask_once, job, prepared, facts)

    async def _ask_once(self, job: Job, prepared: _Prepared, facts: dict[str, Any]) -> Img2ImgResult:
        facts["attempts"] += 1
        pixels = prepared.source.pixels
        mask = None if prepared.kept is None else fit_mask(prepared.kept[1], pixels)
        response = self.router.img2img.remote(pixels, job.settings, "folder", uuid.uuid4().hex, mask)
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


def _finish(job: Job, prepared: _Prepared, made: Img2ImgResult) -> tuple[bytes, Pair]:
    """The file, of the source's size and in the format of its name, and the thumbnails."""
    source, pixels = prepared.source, restore_size(made.pixels, prepared.size)
    if prepared.kept is not None:
        whole, mask = prepared.kept
        pixels = paste_back(whole, pixels, mask)
    data = encode_image(
        pixels,
        FORMATS[PurePosixPath(job.output).suffix.lower()],
        parameters=format_parameters(made.settings, source.size),
        alpha=source.alpha,
        icc_profile=source.icc_profile,
    )
    return data, Pair(prepared.before, thumbnail(pixels, source.icc_profile))


def _pause_if_full(error: Exception) -> bool | float:
    """Whether the app is full; if it says for how many seconds to wait, that number."""
    if not isinstance(error, BackPressureError):
        return False
    return getattr(_cause(error), "retry_after_s", None) or True


def _cause(error: BaseException) -> BaseException:
    """What the replica raised, out of Ray's wrapping."""
    return error.cause if isinstance(error, RayTaskError) else error
