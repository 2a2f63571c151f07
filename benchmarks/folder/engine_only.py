"""The engine alone on the images of a folder, decoded beforehand, with the settings the folder job gives them.

rate.py runs it in a process of its own: `python -m benchmarks.folder.engine_only CONFIG PHOTOS` prints finish times
as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path, PurePosixPath

import torch
import typer
import yaml

from batch.planning.plan import choose
from benchmarks.compare.workload import closed_loop
from benchmarks.folder.setup import IN_FLIGHT, MODEL
from deployments.config import AppConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.images.codec import decode_image
from deployments.images.geometry import fit_pixels
from deployments.replica.build import build_engine
from deployments.schemas import Img2ImgOptions

REPLICA_NICENESS = 15  # of Ray's workers: other processes must slow both measurements alike


def main(config: Path, photos: Path) -> None:
    """Print when each image was done, in seconds of `time.time()`, sorted."""
    os.nice(REPLICA_NICENESS)
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as the replica does
    (application,) = yaml.safe_load(config.read_text())["applications"]
    app = AppConfig.model_validate(application["args"])
    requests = [request_of(path, app) for path in sorted(photos.iterdir())]
    print(json.dumps(asyncio.run(_finish_times(app, requests))))


def request_of(path: Path, app: AppConfig) -> Img2ImgRequest:
    """The request that the folder job would send for this image."""
    settings = choose(PurePosixPath(path.name), Img2ImgOptions(), app)
    source = decode_image(path.read_bytes(), max_bytes=app.limits.max_upload_bytes, max_pixels=app.limits.max_pixels)
    pixels = fit_pixels(source.pixels, max_side=settings.max_side, min_side=app.limits.min_side)
    return Img2ImgRequest(path.name, pixels, priority="folder", **settings.for_engine())


async def _finish_times(app: AppConfig, requests: list[Img2ImgRequest]) -> list[float]:
    engine = AsyncEngine(build_engine(app.models[MODEL]))
    finished: list[float] = []

    async def run(request: Img2ImgRequest) -> Pixels:
        output = await engine.generate(request)
        finished.append(time.time())
        return output.pixels

    await closed_loop(run, requests, IN_FLIGHT)
    engine.close()
    return finished


if __name__ == "__main__":
    typer.run(main)
