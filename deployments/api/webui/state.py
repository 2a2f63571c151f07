"""What the router's replicas share for clients of AUTOMATIC1111's web UI: the model that was picked, and every task.

A small deployment with one replica, which starts when it is first called and then stays.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from ray import serve

from deployments.engine.request import Pixels

WEBUI_STATE = "webui-state"
SILENT_S = 15.0  # a task that nobody has reported on for so long is gone with its router
NUM_REMEMBERED = 100  # finished tasks
FOREVER_S = 10.0**9

Stop = Literal["interrupted", "skipped"]


@dataclass(frozen=True, slots=True, eq=False)
class TaskReport:
    """How far a task is. `step` of `num_steps` are those of all its images; `place` is in line, 0 once one runs."""

    task: str
    num_images: int
    num_finished: int
    place: int
    step: int
    num_steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TaskState:
    """The latest report on a task, its age, and how it was told to stop, if it was."""

    report: TaskReport
    elapsed_s: float
    stop: Stop | None


@dataclass(slots=True)
class _Task:
    report: TaskReport
    started: float
    heard: float
    stop: Stop | None = None


@serve.deployment(
    autoscaling_config={
        "min_replicas": 0,
        "initial_replicas": 0,
        "max_replicas": 1,
        "upscale_delay_s": 0,
        "downscale_delay_s": FOREVER_S,
    },
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0},
)
class WebuiState:
    """Called through handles only. Forgets everything when it is restarted, which costs a pick and some progress."""

    def __init__(self) -> None:
        self._picked: str | None = None
        self._tasks: dict[str, _Task] = {}
        self._finished: deque[str] = deque(maxlen=NUM_REMEMBERED)

    async def pick(self, model: str) -> None:
        """Make `model` the one that requests get which name none."""
        self._picked = model

    async def picked(self) -> str | None:
        """The model that was picked last, if any was."""
        return self._picked

    async def update(self, report: TaskReport) -> bool:
        """Take a report in, the first of a task or a later one; False tells the task to stop."""
        now = time.monotonic()
        task = self._tasks.setdefault(report.task, _Task(report, now, now))
        task.report, task.heard = report, now
        return task.stop is None

    async def finish(self, task: str) -> None:
        """The task has come to its end, whichever."""
        if self._tasks.pop(task, None) is not None:
            self._finished.append(task)

    async def stop(self, how: Stop) -> None:
        """Tell every task that is under way now to stop."""
        for task in self._tasks.values():
            task.stop = how

    async def tasks(self) -> list[TaskState]:
        """The tasks under way, the oldest first."""
        now = time.monotonic()
        self._tasks = {name: task for name, task in self._tasks.items() if now - task.heard < SILENT_S}
        return [TaskState(task.report, now - task.started, task.stop) for task in self._tasks.values()]

    async def is_finished(self, task: str) -> bool:
        """Whether it was here and has come to its end."""
        return task in self._finished
