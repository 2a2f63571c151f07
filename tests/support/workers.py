"""The folder job's worker with a router in this process, for tests without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batch.running.worker import ImageWorker
from batch.storage.storage import open_storage
from deployments.config import Limits
from deployments.engine.request import Pixels, Timings
from deployments.schemas import Img2ImgResult
from tests.support.images import file_of, gradient


def image_worker(
    folder: Path, errors: list[BaseException], answer: Callable[[Pixels], Pixels] = lambda pixels: pixels
) -> ImageWorker:
    """Its input folder holds a.png. Its router raises `errors`, one a call, before it answers."""

    async def img2img(pixels: Any, settings: Any, *_: object) -> Img2ImgResult:
        if errors:
            raise errors.pop(0)
        return Img2ImgResult(settings, answer(pixels), 6, "", Timings(queued_s=0.25, denoise_s=0.5))

    router: Any = SimpleNamespace(img2img=SimpleNamespace(remote=img2img))
    inputs = open_storage(str(folder / "in"))
    inputs.write("a.png", file_of(gradient(), "png"))
    return ImageWorker(router, Limits(), inputs, open_storage(str(folder / "out")))
