"""Requests as the web UI's tasks, with reported progress and stop requests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.api.key_gate import caller_of
from deployments.api.webui.state import Stop, TaskReport, TaskState
from deployments.config import WEBUI_STATE
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Pixels, Progress
from deployments.errors import QueueFull, StateNotReady
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService, OnImageProgress, PreparedRequest

T = TypeVar("T")
START_TIMEOUT_S = 60.0  # of the state's replica, which starts at the first call
HEARTBEAT_S = 1.0
REPORT_INTERVAL_S = 0.1


class WebuiTasks:
    """A client of the shared state for one caller, and the caller's tasks on this router replica."""

    def __init__(self, state: DeploymentHandle, caller: str = "", start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._state = state
        self._caller = caller
        self._start_timeout_s = start_timeout_s

    def of(self, caller: str) -> WebuiTasks:
        """The tasks of this caller."""
        return WebuiTasks(self._state, caller, self._start_timeout_s)

    async def read_options(self) -> dict[str, Any]:
        """The options that the caller has set, by their names in WebuiOptions; the model by its id."""
        return await self._reply(self._state.read_options.remote(self._caller))

    async def write_options(self, options: dict[str, Any]) -> None:
        """Change these options of the caller."""
        await self._reply(self._state.write_options.remote(self._caller, options))

    async def picked(self) -> str | None:
        """The default model of the caller's requests that name none, if one was picked."""
        return (await self.read_options()).get("sd_model_checkpoint")

    async def stop(self, how: Stop) -> None:
        """Stop every running task."""
        await self._reply(self._state.stop.remote(self._caller, how))

    async def running(self) -> list[TaskState]:
        """The running tasks of all routers, oldest first."""
        return await self._reply(self._state.tasks.remote(self._caller))

    async def is_finished(self, task: str) -> bool:
        """Whether a task ended recently."""
        return await self._reply(self._state.is_finished.remote(self._caller, task))

    async def images(self, service: Img2ImgService, prepared: PreparedRequest, name: str = "") -> list[Img2ImgResult]:
        """As `service.images`, as a task. After a stop request, the images finished by then.

        The first failure cancels the other images. Raises InvalidRequest if a running task has this name.
        """
        task = name or f"task({uuid.uuid4().hex[:15]})"
        progress = _TaskProgress(task, prepared)
        if name and not await self._reply(self._state.start.remote(self._caller, progress.report())):
            raise InvalidRequest("force_task_id: a running request has this id", "force_task_id")
        singles = [replace(prepared, settings=settings, num_images=1) for settings in prepared.image_settings()]
        makers = [
            asyncio.create_task(service.images(single, progress.on_progress(number)))
            for number, single in enumerate(singles)
        ]
        for number, maker in enumerate(makers):
            maker.add_done_callback(partial(progress.maker_done, number))
        images = asyncio.create_task(asyncio.wait(makers, return_when=asyncio.FIRST_EXCEPTION))
        stopped = asyncio.create_task(self._report_until_stopped(progress))
        try:
            await asyncio.wait([images, stopped], return_when=asyncio.FIRST_COMPLETED)
            return [maker.result()[0] for maker in makers if maker.done()]
        finally:
            for unfinished in (images, stopped, *makers):
                unfinished.cancel()
            self._state.finish.remote(self._caller, task)

    async def _reply(self, answer: Awaitable[T]) -> T:
        """The state's reply. Raises QueueFull and ModelNotReady."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                return await answer
        except BackPressureError as error:
            raise QueueFull(error.retry_after_s) from error
        except DeploymentUnavailableError as error:
            raise StateNotReady(WEBUI_STATE, str(error)) from error
        except TimeoutError as error:
            raise StateNotReady(WEBUI_STATE, f"no answer within {self._start_timeout_s:g} seconds") from error

    async def _report_until_stopped(self, progress: _TaskProgress) -> None:
        """Send the latest report after each change and at least once a second, until a stop request."""
        while await self._may_continue(progress.report()):
            await asyncio.sleep(REPORT_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await progress.updated.wait()
            progress.updated.clear()

    async def _may_continue(self, report: TaskReport) -> bool:
        try:
            return bool(await self._state.update.remote(self._caller, report))
        except Exception:  # a failed report must not fail the image
            return True


class _TaskProgress:
    """The progress of one task's images."""

    def __init__(self, task: str, prepared: PreparedRequest) -> None:
        settings = prepared.settings
        self._task = task
        self._num_steps = int(settings.num_inference_steps * settings.strength)
        self._places = [1] * prepared.num_images
        self._steps = [0] * prepared.num_images
        self._finished: set[int] = set()
        self._preview: Pixels | None = None
        self.updated = asyncio.Event()

    def on_progress(self, number: int) -> OnImageProgress:
        """The `on_progress` of `service.images` for image `number`."""
        return partial(self._progress, number)

    def _progress(self, number: int, _: int, progress: Progress) -> None:
        self._places[number], self._steps[number] = progress.place, progress.step
        if progress.preview is not None and number == min(set(range(len(self._steps))) - self._finished, default=None):
            self._preview = progress.preview
        self.updated.set()

    def maker_done(self, number: int, maker: asyncio.Task[Any]) -> None:
        """Record that image `number` has run all of its steps, unless its task failed."""
        if maker.cancelled() or maker.exception() is not None:
            return
        self._finished.add(number)
        self._places[number], self._steps[number] = 0, self._num_steps
        self.updated.set()

    def report(self) -> TaskReport:
        """The task's current progress."""
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


def _tasks(request: Request) -> WebuiTasks:
    tasks: WebuiTasks = request.app.state.webui_tasks
    return tasks.of(caller_of(request.scope))


Tasks = Annotated[WebuiTasks, Depends(_tasks)]
