"""The deployment of one checkpoint: a thin shim between Serve and the engine."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import serve

from deployments.autoscaling import METRIC
from deployments.config import ModelConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels, Progress
from deployments.handles.shared_memory import SharedBuffer, attach, write_back
from deployments.images.geometry import pad_to_multiple
from deployments.replica.process_env import prepare_for_torch
from deployments.telemetry import ModelMetrics, log_with_serve

logger = logging.getLogger(__name__)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Imports leave no garbage, and looking for it takes a fifth of the time that torch and diffusers take."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@serve.deployment(
    max_ongoing_requests=64,  # more than a step batch holds, or the engine starves
    max_queued_requests=64,
    graceful_shutdown_timeout_s=600,
    health_check_period_s=5,
    ray_actor_options={"num_cpus": 0.1},
)
class Img2ImgModel:
    """One replica of one checkpoint. Called through handles only."""

    def __init__(self, model_id: str, model: ModelConfig) -> None:
        prepare_for_torch()
        with _without_collecting():
            # Not at the top, for it imports torch and diffusers: whoever only binds the application need not wait.
            from deployments.replica.build import build_engine, use_hardware

        self.model_id = model_id
        started = time.perf_counter()
        use_hardware(ray.get_runtime_context().get_assigned_resources().get("GPU", 0), model.device)
        engine = build_engine(model)
        log_with_serve()
        self._metrics = ModelMetrics(time.perf_counter() - started)
        self._engine = AsyncEngine(engine)
        self._multiple: int = self._engine.describe()["size_multiple"]

    async def img2img(self, request: Img2ImgRequest, buffer: SharedBuffer | None = None) -> Img2ImgOutput:
        """The image for a request of any size, padded for the VAE and cropped again.

        Raises EngineError, and NotShared for a buffer of another host. Cancelling the call frees the request's rows at
        the next step boundary.
        """
        request, shared = attach(request, buffer)
        admitted = await self._admit(request)
        return write_back(await self._finished(request, admitted), shared)

    async def img2img_events(
        self, request: Img2ImgRequest, buffer: SharedBuffer | None = None
    ) -> AsyncIterator[Progress | Img2ImgOutput]:
        """As `img2img`, with the request's progress before the image."""
        request, shared = attach(request, buffer)
        admitted = await self._admit(request)
        async with aclosing(self._engine.events(request.request_id, admitted)) as events:
            async for progress in events:
                yield replace(progress, preview=self._cropped_preview(progress.preview, request))
        yield write_back(await self._finished(request, admitted), shared)

    async def _finished(self, request: Img2ImgRequest, admitted: Future[Img2ImgOutput]) -> Img2ImgOutput:
        output = await self._engine.wait(request.request_id, admitted)
        self._metrics.observe(output)
        timings = {name: round(seconds, 4) for name, seconds in asdict(output.timings).items()}
        logger.info("image done: %s", output.request_id, extra={"steps": output.num_denoise_steps, **timings})
        return replace(output, pixels=_cropped(output.pixels, request))

    def _cropped_preview(self, preview: Pixels | None, request: Img2ImgRequest) -> Pixels | None:
        """Without the padding; a preview has one pixel for each latent."""
        if preview is None:
            return None
        padded = -(-request.pixels.shape[0] // self._multiple) * self._multiple
        return _cropped(preview, request, padded // preview.shape[0])

    async def _admit(self, request: Img2ImgRequest) -> Future[Img2ImgOutput]:
        mask = None if request.mask is None else pad_to_multiple(request.mask, self._multiple)
        admission = asyncio.ensure_future(
            self.admit(replace(request, pixels=pad_to_multiple(request.pixels, self._multiple), mask=mask))
        )
        try:
            return await asyncio.shield(admission)
        except asyncio.CancelledError:
            # It may be on its way to the engine in an admission batch, where a cancellation does not reach it.
            admission.add_done_callback(lambda _: self._engine.abort(request.request_id))
            raise

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def admit(self, requests: list[Img2ImgRequest]) -> list[Future[Img2ImgOutput]]:
        """Hand over the requests that arrived together, so that they are encoded together. Takes no time itself."""
        return self._engine.submit(requests)

    def describe(self) -> dict[str, Any]:
        """What the loaded checkpoint is, for `GET /v1/models`."""
        return self._engine.describe()

    def stats(self) -> dict[str, float]:
        """The engine's counters, its caches' hits and misses, and what its backend captured and compiled."""
        return self._engine.stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve's autoscaler."""
        return {METRIC: self._engine.stats()["queued_steps"]}

    def check_health(self) -> None:
        """Called by Serve every few seconds; an exception gets the replica replaced."""
        self._metrics.update(self.stats())
        self._engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


def _cropped(pixels: Pixels, request: Img2ImgRequest, factor: int = 1) -> Pixels:
    """Without the padding; `factor` is how many pixels of the request each one stands for."""
    height, width = (-(-side // factor) for side in request.pixels.shape[:2])
    return pixels[:height, :width]
