"""Tracks the running images and hands over their results, in a process that outlives the workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from batch.report.thumbnails import Pair

MAX_WAITING = 128  # results not yet taken; workers wait beyond that
DONE, STOPPED = 0, -1  # returned by `start` for an image that must not run


class Report(NamedTuple):
    """The Result of the image `number` as JSON, and its thumbnails if it was finished."""

    number: int
    result: str
    pair: Pair | None


class Tracker:
    """A Ray actor between the workers, which may die and repeat a block, and the job, which records results."""

    def __init__(self) -> None:
        self._starts: Counter[int] = Counter()  # of the running images
        self._done: set[int] = set()
        self._reports: list[Report] = []
        self._stopping = False
        self._changed = asyncio.Condition()

    async def start(self, number: int) -> int:
        """The number of starts of the image, including this one; DONE or STOPPED if it must not run."""
        if number in self._done:
            return DONE
        if self._stopping:
            await self._forget(number)
            return STOPPED
        self._starts[number] += 1
        return self._starts[number]

    async def finish(self, report: Report) -> None:
        """Add the result of an image. Waits while too many results are not yet taken."""
        self._done.add(report.number)
        self._reports.append(report)
        await self._forget(report.number)
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._reports) < MAX_WAITING)

    async def take(self, timeout_s: float) -> list[Report]:
        """The results since the last call. Waits at most `timeout_s` for one."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._reports)
            except TimeoutError:
                return []
            reports, self._reports = self._reports, []
            self._changed.notify_all()
        return reports

    async def stop(self) -> int:
        """Let no further image start. Returns the number of running images."""
        self._stopping = True
        return len(self._starts)

    async def num_running(self) -> int:
        """The number of images that were started and are not finished."""
        return len(self._starts)

    async def _forget(self, number: int) -> None:
        self._starts.pop(number, None)
        async with self._changed:
            self._changed.notify_all()
