"""The usual way to batch on Ray Serve: `@serve.batch` around the whole pipeline call."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.backends.pipelines import StockPipeline
from benchmarks.backends.service import actor_options
from benchmarks.backends.serving import APP, start_ray, stop_ray
from benchmarks.backends.spec import BackendSpec, Device
from deployments.engine.request import Img2ImgRequest, Pixels


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class BatchedPipeline:
    """One replica. Its calls run in a thread, so that requests can queue up for the next batch meanwhile."""

    def __init__(self, checkpoint: str, device: Device, batch_size: int) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._pipeline = StockPipeline(checkpoint, device)
        self.img2img.set_max_batch_size(batch_size)

    @serve.batch(batch_wait_timeout_s=0.05)
    async def img2img(self, requests: list[Img2ImgRequest]) -> list[Pixels]:
        """The images of the requests that Serve put together; all are answered when the last is done."""
        return await asyncio.to_thread(self._pipeline.grouped, requests)

    def dtype(self) -> str:
        """The dtype of the networks."""
        return self._pipeline.dtype


class ServeBatch:
    """`BatchedPipeline` on a Ray cluster of its own, called through its handle."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec

    async def open(self) -> None:
        spec = self._spec
        start_ray()
        deployment: Any = BatchedPipeline
        deployment = deployment.options(ray_actor_options=actor_options(spec))
        application = deployment.bind(spec.checkpoint, spec.device, spec.batch_size)
        self._handle: DeploymentHandle = serve.run(application, name=APP, route_prefix=None)
        self.dtype: str = await self._handle.dtype.remote()

    async def run(self, request: Img2ImgRequest) -> Pixels:
        image: Pixels = await self._handle.img2img.remote(request)
        return image

    async def close(self) -> None:
        stop_ray()
