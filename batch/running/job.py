"""One run of the folder job: makes the remaining images, records every result at once, and writes the report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from types import FrameType
from typing import Any

from batch.display import CONSOLE, Counts, Display
from batch.planning.remaining_work import RemainingWork
from batch.record.ledger import PARQUET_FILE, Ledger, Record
from batch.record.results import RESULTS_FILE
from batch.report.thumbnails import Thumbnails
from batch.report.writer import REPORT_FILE, write_report
from batch.running.pipeline import Pipeline
from batch.running.worker import ImageWorker
from batch.storage.lock import Lock
from batch.storage.storage import Storage

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Outcome(Enum):
    """How a run ended, and its exit code apart from failed images."""

    DONE = 0
    DEADLINE = 3
    INTERRUPTED = 130

    def __str__(self) -> str:
        return {Outcome.DONE: "Done", Outcome.DEADLINE: "Deadline reached", Outcome.INTERRUPTED: "Interrupted"}[self]


@dataclass(frozen=True, slots=True)
class FolderJob:
    """The remaining work, the folders that it reads and writes, the ledger of results, and the lock of the output."""

    work: RemainingWork
    inputs: Storage
    outputs: Storage
    ledger: Ledger
    lock: Lock

    def run(self, worker: ImageWorker, concurrency: int, deadline_s: float | None) -> tuple[Outcome, Counts]:
        """Make the images to do, at most `concurrency` at a time. Start no image after `deadline_s`.

        The first SIGINT or SIGTERM lets the running images finish, a second one raises KeyboardInterrupt. Raises
        OSError if a result cannot be recorded, LockLost if another job has taken over the output.
        """
        outcome = Outcome.DONE

        def stop(reason: Outcome) -> None:
            nonlocal outcome
            outcome = reason
            pipeline.stop()

        def print_stopping(num_running: int) -> None:
            if num_running:
                display.print(f"{outcome}: waiting for {num_running} running images (Ctrl-C to abort)")

        pipeline = Pipeline(worker, concurrency, print_stopping)
        timer = threading.Timer(deadline_s or 0, stop, [Outcome.DEADLINE])
        with (
            Display(self.work.todo_by_model()) as display,
            closing(Thumbnails(self.outputs)) as thumbnails,
            _interruptible(lambda: stop(Outcome.INTERRUPTED)),
        ):
            if deadline_s is not None:
                timer.start()
            try:
                for result, pair in pipeline.run(self.work.todo):
                    self.lock.check()
                    self.ledger.append(result)
                    if pair is not None:
                        thumbnails.add(result, pair)
                    display.add(result)
            finally:
                timer.cancel()
        return (outcome if display.count < len(self.work.todo) else Outcome.DONE), display.counts

    def finish(self) -> None:
        """Leave one line for every result in results.jsonl, and write results.parquet and the report.

        They hold every result in the output folder, whichever run made it, and the images without an output that fail
        in this run. Nothing is written if nothing is new. Partial files of killed writers are removed.
        """
        self.lock.check()
        self.outputs.sweep()
        record = self.ledger.read()
        self._update(record)
        if not (self.work.todo or record.is_changed) and self.outputs.exists(REPORT_FILE):
            return
        self.ledger.close(record)
        self.ledger.write_parquet(record.results.values())
        title = " to ".join(PurePosixPath(str(folder)).name for folder in (self.inputs, self.outputs))
        write_report(record.results.values(), self.inputs, self.outputs, title=title)
        for problem in record.problems:
            CONSOLE.print(problem)
        CONSOLE.print(f"Wrote {REPORT_FILE}, {RESULTS_FILE} and {PARQUET_FILE} to {self.outputs}")

    def _update(self, record: Record) -> None:
        """Add what was found before any request: failures, and new times of sources that have the same bytes."""
        found = {result.key: result for result in (*self.work.done, *self.work.failures)}
        for key, result in found.items():
            if record.results.get(key) != result:
                record.put(result)
        for key, result in list(record.results.items()):
            if result.output is None and key not in found:
                record.forget(key)


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first SIGINT or SIGTERM. The next one goes to Python's own handler."""
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler)
        stop()

    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, handle) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
