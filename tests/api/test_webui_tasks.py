"""The tasks of a router replica: how one image's failure ends the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.api.webui.tasks import WebuiTasks
from deployments.config import Defaults, Limits
from deployments.errors import QueueFull
from deployments.images import flow
from deployments.images.codec import SourceImage
from deployments.schemas import Settings
from deployments.service import PreparedRequest

SETTINGS = Settings(**Defaults().model_dump(), model="a", seed=7)


class State:
    """A handle of the shared state that stops no task."""

    def __init__(self) -> None:
        self.update = SimpleNamespace(remote=lambda caller, report: asyncio.sleep(0, True))
        self.finish = SimpleNamespace(remote=lambda caller, task: None)


class FullForTheFirst:
    """A service without a place for the first image of a task, whose second image starts and never ends."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def images(self, prepared: PreparedRequest, on_progress: Any) -> list[Any]:
        if prepared.settings.seed == SETTINGS.seed:
            await self.started.wait()
            raise QueueFull(2)
        self.started.set()
        try:
            return [await asyncio.Event().wait()]
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def two_images() -> PreparedRequest:
    source = SourceImage(np.zeros((16, 16, 3), np.uint8), None, None, "png")
    return PreparedRequest(SETTINGS, 2, "png", flow.prepare(source, Limits(), 16))


async def test_failure_of_one_image_cancels_the_others() -> None:
    state: Any = State()
    service: Any = FullForTheFirst()
    with pytest.raises(QueueFull):
        await WebuiTasks(state).images(service, two_images())
    async with asyncio.timeout(1):
        await service.cancelled.wait()
