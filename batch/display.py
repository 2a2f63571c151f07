"""The terminal output of a folder job: progress bars, or a line every five seconds, and a table at the end."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from batch.record.results import Result

LINE_EVERY_S = 5.0  # if the output is no terminal
SPEED_OVER_S = 60.0
LISTED_FAILURES = 50

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)


class SpeedColumn(ProgressColumn):
    """Images per second, over the last minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate_text(speed), style="progress.data.speed")


class Counts:
    """Numbers of images and sums of seconds by model. Its size does not grow with the number of images."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._denoise_s: defaultdict[str, float] = defaultdict(float)
        self._total_s: defaultdict[str, float] = defaultdict(float)

    def add(self, result: Result) -> None:
        model = result.model or "no model"
        if result.error_type:
            self.failed[model] += 1
            return
        self.done[model] += 1
        self._denoise_s[model] += result.denoise_s or 0.0
        self._total_s[model] += result.total_s or 0.0

    def table(self) -> Table:
        """A row for each model."""
        table = Table("model", "images", "failed", "denoise s/image", "total s/image")
        for model in sorted(self.done | self.failed):
            count = self.done[model]
            times = [f"{seconds[model] / count:.2f}" if count else "" for seconds in (self._denoise_s, self._total_s)]
            table.add_row(model, str(count), str(self.failed[model]), *times)
        return table


class Display:
    """The progress of a run: a bar for each model with images to make, and one for all models."""

    def __init__(self, todo_by_model: Mapping[str, int]) -> None:
        self.counts = Counts()
        self._total = sum(todo_by_model.values())
        self._last_line_s = self._first_s = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            SpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=CONSOLE,
            disable=not CONSOLE.is_terminal,
            speed_estimate_period=SPEED_OVER_S,
        )
        bars = todo_by_model if len(todo_by_model) > 1 else {}
        self._bar_of_model = {model: self._add_bar(model, total) for model, total in bars.items()}
        self._bar_of_all = self._add_bar("all", self._total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @property
    def count(self) -> int:
        """The number of images that are done or failed."""
        return self.counts.done.total() + self.counts.failed.total()

    def add(self, result: Result) -> None:
        """Count an image that is done or failed."""
        self.counts.add(result)
        failed = self.counts.failed
        if result.error_type and failed.total() <= LISTED_FAILURES:
            self.print(failure_text(result))
        if (bar := self._bar_of_model.get(str(result.model))) is not None:
            self._bars.update(bar, advance=1, failed=failed[str(result.model)])
        self._bars.update(self._bar_of_all, advance=1, failed=failed.total())
        if not CONSOLE.is_terminal:
            self._print_line()

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text)

    def _add_bar(self, name: str, total: int) -> TaskID:
        return self._bars.add_task(name, total=total, failed=0)

    def _print_line(self) -> None:
        now = time.monotonic()
        if self.count in (1, self._total) or now - self._last_line_s > LINE_EVERY_S:
            self._last_line_s = now
            failed = self.counts.failed.total()
            CONSOLE.print(f"[{self.count}/{self._total}] {failed} failed{self._pace(now)}")

    def _pace(self, now: float) -> str:
        """The rate, without the first image, which waits for models to start; the time left after LINE_EVERY_S."""
        if self.count == 1:
            self._first_s = now
            return ""
        speed = (self.count - 1) / max(now - self._first_s, 1e-6)
        left = seconds_text((self._total - self.count) / speed)
        return f", {rate_text(speed)}" + (f", about {left} left" if now - self._first_s > LINE_EVERY_S else "")


def failure_text(result: Result) -> str:
    return f"failed: {result.source}: {result.error_type}: {result.error}"


def rate_text(per_s: float) -> str:
    """A rate in images per second, or per minute if it is below 1/s."""
    return f"{per_s:.1f} images/s" if per_s >= 1 else f"{60 * per_s:.1f} images/min"


def seconds_text(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
