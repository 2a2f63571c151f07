"""The state that router replicas share for web UI clients: the picked model and all tasks.

A deployment with one replica, which starts at the first call and keeps running.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from ray import serve

from deployments.engine.request import Pixels

TASK_TIMEOUT_S = 15.0  # a task without a report for this long has died with its router
NUM_REMEMBERED = 100  # finished tasks
FOREVER_S = 10.0**9

Stop = Literal["interrupted", "skipped"]


@dataclass(frozen=True, slots=True, eq=False)
class TaskReport:
    """A task's progress. `step` and `num_steps` sum over its images. `place` in the queue is 0 once an image runs."""

    task: str
    num_images: int
    num_finished: int
    place: int
    step: int
    num_steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TaskState:
    """A task's latest report, its age, and the kind of stop that was requested, if any."""

    report: TaskReport
    elapsed_s: float
    stop: Stop | None


@dataclass(slots=True)
class _Task:
    report: TaskReport
    started: float
    reported: float
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
    """Called through handles only. A restart loses the picked model and some progress."""

    def __init__(self) -> None:
        self._picked: str | None = None
        self._tasks: dict[str, _Task] = {}
        self._finished: deque[str] = deque(maxlen=NUM_REMEMBERED)

    async def pick(self, model: str) -> None:
        """Make `model` the default of requests that name none."""
        self._picked = model

    async def picked(self) -> str | None:
        """The model that was picked last, if any."""
        return self._picked

    async def update(self, report: TaskReport) -> bool:
        """Store a task's report. False means that the task must stop."""
        now = time.monotonic()
        task = self._tasks.setdefault(report.task, _Task(report, now, now))
        task.report, task.reported = report, now
        return task.stop is None

    async def finish(self, task: str) -> None:
        """Mark a task as ended, whatever its outcome."""
        if self._tasks.pop(task, None) is not None:
            self._finished.append(task)

    async def stop(self, how: Stop) -> None:
        """Request every running task to stop."""
        for task in self._tasks.values():
            task.stop = how

    async def tasks(self) -> list[TaskState]:
        """The running tasks, oldest first."""
        now = time.monotonic()
        self._tasks = {name: task for name, task in self._tasks.items() if now - task.reported < TASK_TIMEOUT_S}
        return [TaskState(task.report, now - task.started, task.stop) for task in self._tasks.values()]

    async def is_finished(self, task: str) -> bool:
        """Whether the task ended recently."""
        return task in self._finished
