"""A client of one model's deployment: calls with or without progress, with shared or sent pixels."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Progress
from deployments.handles.shared_memory import PLACEHOLDER, NotShared, SharedBuffer, is_worth_sharing, share

OnProgress = Callable[[Progress], None]
SHARE_AGAIN_S = 10.0  # after a failure: one call more in that time, if the replicas are on other hosts


class ModelClient:
    """Calls a model's replicas. Cancelling a call cancels the request."""

    def __init__(self, handle: DeploymentHandle, clock: Callable[[], float] = time.monotonic) -> None:
        self._handle = handle
        self._clock = clock
        self._shares_from = -math.inf  # when to share again, after a replica could not map shared memory

    async def img2img(self, request: Img2ImgRequest, on_progress: OnProgress | None = None) -> Img2ImgOutput:
        """The image. Raises EngineError, Serve's BackPressureError and DeploymentUnavailableError."""
        if is_worth_sharing(request.pixels) and self._clock() >= self._shares_from:
            try:
                return await self._share(request, on_progress)
            except NotShared:
                self._shares_from = self._clock() + SHARE_AGAIN_S
        return await self._call(request, None, on_progress)

    async def _share(self, request: Img2ImgRequest, on_progress: OnProgress | None) -> Img2ImgOutput:
        with share(request.pixels) as (buffer, shared):
            output = await self._call(replace(request, pixels=PLACEHOLDER), buffer, on_progress)
            return replace(output, pixels=shared.result)

    async def _call(
        self, request: Img2ImgRequest, buffer: SharedBuffer | None, on_progress: OnProgress | None
    ) -> Img2ImgOutput:
        if on_progress is None:
            return await self._call_once(request, buffer)
        return await self._stream(request, buffer, on_progress)

    async def _call_once(self, request: Img2ImgRequest, buffer: SharedBuffer | None) -> Img2ImgOutput:
        output: Img2ImgOutput = await answer_of(self._handle.img2img.remote(request, buffer))
        return output

    async def _stream(
        self, request: Img2ImgRequest, buffer: SharedBuffer | None, on_progress: OnProgress
    ) -> Img2ImgOutput:
        events = self._handle.options(stream=True).img2img_events.remote(request, buffer)
        try:
            async for event in events:
                if isinstance(event, Img2ImgOutput):
                    return event
                on_progress(event)
        except asyncio.CancelledError:
            events.cancel()
            raise
        raise AssertionError("the last event is the image")


async def answer_of(response: DeploymentResponse[Any]) -> Any:
    """What the call returns. Cancelling the wait cancels the call: Serve forwards a disconnect, but not a deadline."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
