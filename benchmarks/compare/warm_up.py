"""Requests sent before a measurement, so that nothing is compiled or timed for the first time during it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.backends.spec import OURS
from benchmarks.compare.records import Job
from benchmarks.compare.workload import Run, make_requests
from deployments.engine.request import Img2ImgRequest

BATCHING = ("batch", "diffusers_best")


async def warm_up(run: Run, job: Job) -> None:
    """Send the rounds one after the other. No measured request has an image of theirs."""
    for together in rounds(job):
        await asyncio.gather(*map(run, together))


def rounds(job: Job) -> list[list[Img2ImgRequest]]:
    """Short requests that are sent at once, round by round.

    Our backends get unguided and then guided requests, as many as there are clients, one of which ends after every
    step. Backends that batch get every batch size on CUDA, where each is compiled for itself.
    """
    options, backend = job.options, job.spec.backend
    if backend in OURS:
        return [_short(job, range(1, options.clients + 1), guidance_scale) for guidance_scale in (0.0, 5.0)]
    if options.device == "cuda" and backend in BATCHING:
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
