"""Knows which images are in flight and hands over their results, in a process that outlives the workers'."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from batch.report.thumbnails import Pair

MAX_WAITING = 128  # results that nobody has taken yet: from here on workers wait
DONE, STOPPED = 0, -1  # what `start` says of an image that is not to be worked on


class Report(NamedTuple):
    """What came of the image `number`: a Result as JSON, and its thumbnails where it got finished."""

    number: int
    result: str
    pair: Pair | None


class Tracker:
    """A Ray actor between the workers, which may die and do a block again, and the job, which records results."""

    def __init__(self) -> None:
        self._starts: Counter[int] = Counter()  # of the images in flight
        self._done: set[int] = set()
        self._reports: list[Report] = []
        self._stopping = False
        self._changed = asyncio.Condition()

    async def start(self, number: int) -> int:
        """How often the image was started, this time included; DONE or STOPPED where it must not be worked on."""
        if number in self._done:
            return DONE
        if self._stopping:
            await self._forget(number)
            return STOPPED
        self._starts[number] += 1
        return self._starts[number]

    async def finish(self, report: Report) -> None:
        """The image is through; waits while too many results are waiting to be taken."""
        self._done.add(report.number)
        self._reports.append(report)
        await self._forget(report.number)
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._reports) < MAX_WAITING)

    async def take(self, patience_s: float) -> list[Report]:
        """What has come since it was last asked; waits for something, but not longer than `patience_s`."""
        async with self._changed:
            try:
                async with asyncio.timeout(patience_s):
                    await self._changed.wait_for(lambda: self._reports)
            except TimeoutError:
                return []
            reports, self._reports = self._reports, []
            self._changed.notify_all()
        return reports

    async def stop(self) -> None:
        """Let no further image start."""
        self._stopping = True

    async def num_in_flight(self) -> int:
        """How many images were started and are not through."""
        return len(self._starts)

    async def _forget(self, number: int) -> None:
        self._starts.pop(number, None)
        async with self._changed:
            self._changed.notify_all()
