"""A model as the router calls it: with or without news of the progress, its pixels lent where that is possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ray.serve.handle import DeploymentHandle

from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Progress
from deployments.handles.shared_memory import SHARED, Elsewhere, Loan, is_worth_lending, lend

OnProgress = Callable[[Progress], None]


class ModelCaller:
    """Cancelling a call cancels the request."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._is_elsewhere = False  # one of the replicas at least

    async def img2img(self, request: Img2ImgRequest, on_progress: OnProgress | None = None) -> Img2ImgOutput:
        """The image. Raises EngineError, Serve's BackPressureError and DeploymentUnavailableError."""
        if is_worth_lending(request.pixels) and not self._is_elsewhere:
            with lend(request.pixels) as (loan, shared):
                try:
                    output = await self._call(replace(request, pixels=SHARED), loan, on_progress)
                    return replace(output, pixels=shared.result)
                except Elsewhere:
                    self._is_elsewhere = True
        return await self._call(request, None, on_progress)

    async def _call(self, request: Img2ImgRequest, loan: Loan | None, on_progress: OnProgress | None) -> Img2ImgOutput:
        return await (self._ask(request, loan) if on_progress is None else self._follow(request, loan, on_progress))

    async def _ask(self, request: Img2ImgRequest, loan: Loan | None) -> Img2ImgOutput:
        response = self._handle.img2img.remote(request, loan)
        try:
            output: Img2ImgOutput = await response
        except asyncio.CancelledError:
            response.cancel()  # Serve passes on a caller's disconnect by itself, but not a deadline
            raise
        return output

    async def _follow(self, request: Img2ImgRequest, loan: Loan | None, on_progress: OnProgress) -> Img2ImgOutput:
        events = self._handle.options(stream=True).img2img_events.remote(request, loan)
        try:
            async for event in events:
                if isinstance(event, Img2ImgOutput):
                    return event
                on_progress(event)
        except asyncio.CancelledError:
            events.cancel()
            raise
        raise AssertionError("the last event is the image")
