"""The state that router replicas share for web UI clients: each caller's options and tasks.

A deployment with one replica, which starts at the first call and keeps running.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(slots=True)
class _Caller:
    """The options and the tasks of one caller."""

    options: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, _Task] = field(default_factory=dict)
    finished: deque[str] = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED))

    def running(self) -> dict[str, _Task]:
        """The tasks, oldest first, without those whose router has died."""
        now = time.monotonic()
        self.tasks = {name: task for name, task in self.tasks.items() if now - task.reported < TASK_TIMEOUT_S}
        return self.tasks


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
    """Called through handles only. A restart loses the options and some progress.

    `caller` is the name of an API key, "" without keys: each caller has options and tasks of its own.
    """

    def __init__(self) -> None:
        self._callers: defaultdict[str, _Caller] = defaultdict(_Caller)

    async def write_options(self, caller: str, options: dict[str, Any]) -> None:
        """Change these options of the caller."""
        self._callers[caller].options |= options

    async def read_options(self, caller: str) -> dict[str, Any]:
        """The options that the caller has set."""
        return self._callers[caller].options

    async def start(self, caller: str, report: TaskReport) -> bool:
        """Store the first report of a task. False if the caller has a running task of this id."""
        if report.task in self._callers[caller].running():
            return False
        return await self.update(caller, report)

    async def update(self, caller: str, report: TaskReport) -> bool:
        """Store a task's report. False means that the task must stop."""
        now = time.monotonic()
        task = self._callers[caller].tasks.setdefault(report.task, _Task(report, now, now))
        task.report, task.reported = report, now
        return task.stop is None

    async def finish(self, caller: str, task: str) -> None:
        """Mark a task as ended, whatever its outcome."""
        if self._callers[caller].tasks.pop(task, None) is not None:
            self._callers[caller].finished.append(task)

    async def stop(self, caller: str, how: Stop) -> None:
        """Request every running task of the caller to stop."""
        for task in self._callers[caller].tasks.values():
            task.stop = how

    async def tasks(self, caller: str) -> list[TaskState]:
        """The caller's running tasks, oldest first."""
        now = time.monotonic()
        running = self._callers[caller].running().values()
        return [TaskState(task.report, now - task.started, task.stop) for task in running]

    async def is_finished(self, caller: str, task: str) -> bool:
        """Whether the caller's task ended recently."""
        return task in self._callers[caller].finished
