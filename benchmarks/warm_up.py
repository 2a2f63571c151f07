"""What a way is sent before it is measured, so that nothing is compiled or measured for the first time meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.records import OURS, Job
from benchmarks.workload import Run, make_requests
from deployments.engine.request import Img2ImgRequest

BATCHING = ("batch", "serve_batch", "diffusers_best")


async def warm_up(run: Run, job: Job) -> None:
    """Send rounds of short requests with pictures that are not measured, each when the last is answered."""
    for together in rounds(job):
        await asyncio.gather(*map(run, together))


def rounds(job: Job) -> list[list[Img2ImgRequest]]:
    """The requests that are sent at once, round by round.

    Ours get unguided and then guided requests, as many as there are clients, of which one ends after every step.
    Ways that batch get every batch on CUDA, where each size is compiled for itself.
    """
    options = job.options
    if job.way in OURS:
        return [_short(job, range(1, options.clients + 1), guidance_scale) for guidance_scale in (0.0, 5.0)]
    if options.device == "cuda" and job.way in BATCHING:
        sizes = range(1, options.batch_size + 1)
        return [_short(job, [2] * size, guidance_scale=guidance) for size in sizes for guidance in (0.0, 5.0)]
    return [_short(job, [1], guidance_scale=5.0)]


def _short(job: Job, steps: Iterable[int], guidance_scale: float) -> list[Img2ImgRequest]:
    """Requests that run these numbers of steps."""
    counts = list(steps)
    options = job.options.model_copy(update={"images": len(counts), "seed": job.options.seed + 1})
    return [
        replace(request, num_inference_steps=count, strength=1.0, guidance_scale=guidance_scale)
        for request, count in zip(make_requests(options, "uniform", "closed"), counts, strict=True)
    ]
