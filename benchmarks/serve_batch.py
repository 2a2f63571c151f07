"""The usual way to batch on Ray Serve: `@serve.batch` around the whole pipeline call."""

from __future__ import annotations

import asyncio
import os

import torch
from ray import serve

from benchmarks.records import Device
from benchmarks.stock import StockPipeline
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
        """The pictures of the requests that Serve put together; all are answered when the last is done."""
        return await asyncio.to_thread(self._pipeline.grouped, requests)

    def dtype(self) -> str:
        """The number format the pipeline runs in."""
        return self._pipeline.dtype
