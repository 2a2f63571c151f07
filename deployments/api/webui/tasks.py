"""Requests as the web UI's tasks: reported on while they run, and stopped on request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from ray.serve.handle import DeploymentHandle

from deployments.api.webui.state import WEBUI_STATE, Stop, TaskReport, TaskState
from deployments.engine.request import Pixels, Progress
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService, Prepared, translate_serve_errors

T = TypeVar("T")
START_TIMEOUT_S = 60.0  # of the state's replica, which starts when it is first called
HEARTBEAT_S = 1.0
PAUSE_S = 0.1  # between two reports


class WebuiTasks:
    """The state that all replicas of the router share, and the tasks that run in this one."""

    def __init__(self, state: DeploymentHandle) -> None:
        self._state = state

    async def picked(self) -> str | None:
        """The model picked for requests that name none."""
        return await _asked(self._state.picked.remote())

    async def pick(self, model: str) -> None:
        """Pick the model for requests that name none."""
        await _asked(self._state.pick.remote(model))

    async def stop(self, how: Stop) -> None:
        """Stop every task that is under way."""
        await _asked(self._state.stop.remote(how))

    async def under_way(self) -> list[TaskState]:
        """The tasks of all routers, the oldest first."""
        return await _asked(self._state.tasks.remote())

    async def is_finished(self, task: str) -> bool:
        """Whether a task has come to its end, not long ago."""
        return await _asked(self._state.is_finished.remote(task))

    async def images(self, service: Img2ImgService, prepared: Prepared, task: str) -> list[Img2ImgResult]:
        """As `service.images`, as a task; once that is told to stop, the images that are finished by then."""
        watch = _Watch(task, prepared)
        makers = [
            asyncio.create_task(service.images(replace(prepared, settings=settings, num_images=1), watch.hear(number)))
            for number, settings in enumerate(prepared.each())
        ]
        for number, maker in enumerate(makers):
            maker.add_done_callback(partial(watch.image_done, number))
        images = asyncio.gather(*makers)
        stopped = asyncio.create_task(self._report_until_stopped(watch))
        ends: list[asyncio.Future[Any]] = [images, stopped]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if images.done():
                return [image for (image,) in images.result()]
            return [maker.result()[0] for maker in makers if maker.done() and not maker.exception()]
        finally:
            for end in ends:
                end.cancel()
            self._state.finish.remote(task)

    async def _report_until_stopped(self, watch: _Watch) -> None:
        """One report at a time, the latest; at least one each second, so that the task counts as alive."""
        while await self._goes_on(watch.report()):
            await asyncio.sleep(PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await watch.news.wait()
            watch.news.clear()

    async def _goes_on(self, report: TaskReport) -> bool:
        try:
            return bool(await self._state.update.remote(report))
        except Exception:  # whatever the state has, the image is worth more than its progress
            return True


class _Watch:
    """How far the images of one task are."""

    def __init__(self, task: str, prepared: Prepared) -> None:
        settings = prepared.settings
        self._task = task
        self._num_steps = int(settings.num_inference_steps * settings.strength)
        self._places = [1] * prepared.num_images
        self._steps = [0] * prepared.num_images
        self._finished: set[int] = set()
        self._preview: Pixels | None = None
        self.news = asyncio.Event()

    def hear(self, number: int) -> Any:
        """What `service.images` calls with the progress of image `number`."""
        return partial(self._progress, number)

    def _progress(self, number: int, _: int, progress: Progress) -> None:
        self._places[number], self._steps[number] = progress.place, progress.step
        if progress.preview is not None and number == min(set(range(len(self._steps))) - self._finished, default=None):
            self._preview = progress.preview
        self.news.set()

    def image_done(self, number: int, _: object = None) -> None:
        """It has all its steps behind it."""
        self._finished.add(number)
        self._places[number], self._steps[number] = 0, self._num_steps
        self.news.set()

    def report(self) -> TaskReport:
        """All of it, as of now."""
        count = len(self._steps)
        return TaskReport(
            task=self._task,
            num_images=count,
            num_finished=len(self._finished),
            place=min(self._places),
            step=sum(self._steps),
            num_steps=count * self._num_steps,
            preview=self._preview,
        )


async def _asked(answer: Awaitable[T]) -> T:
    """Raises ModelNotReady, QueueFull or TimeoutError where the state cannot answer."""
    with translate_serve_errors(WEBUI_STATE):
        async with asyncio.timeout(START_TIMEOUT_S):
            return await answer


def _tasks(request: Request) -> WebuiTasks:
    tasks: WebuiTasks = request.app.state.webui_tasks
    return tasks


Tasks = Annotated[WebuiTasks, Depends(_tasks)]
