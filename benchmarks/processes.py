"""A process for each way that is measured, so that no other way holds memory or a core of its own meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.records import Cell, Job, Measurement
from deployments.config import REPO_ROOT
from deployments.replica.process_env import LARGE_PAGES, SLEEPING_THREADS

MEASUREMENTS = TypeAdapter(list[Measurement])
JOB, ERRORS, RESULT = "job.json", "errors.txt", "measurements.json"
READY = "ready"  # a file that appears when the way is open, and what has to be compiled is
POLL_S = 0.05
BEHIND_HAPROXY = {  # as the Makefile's serve-fast
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "RAY_prestart_worker_first_driver": "0",
}
# What the application sets for the engine, and what helps diffusers; who runs a plain script sets nothing.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "engine": LARGE_PAGES | SLEEPING_THREADS,
    "diffusers_best": LARGE_PAGES,
    "service_fast": BEHIND_HAPROXY,
}
SHOWN_CHARS = 3000  # of what a failing way said: its end, where the error is


class WayFailed(Exception):
    """A way did not get through its requests, and the message says why."""


def pictures_file(folder: Path, cell: Cell) -> Path:
    """Where a cell's pictures are: one array (images, height, width, 3), in the order of the requests."""
    return folder / f"{cell.settings}-{cell.mode}.npy"


def is_my_turn() -> bool:
    """Wait for a line, which says that this process is to measure; False if whoever started it is gone."""
    return bool(sys.stdin.readline())


class WayProcess:
    """Opens the job's way at once, and measures it when asked to; everything is in `folder`, its own."""

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._way, self.folder = job.way, folder
        (folder / JOB).write_text(job.model_dump_json())
        with (folder / ERRORS).open("w") as errors:
            command = [sys.executable, "-m", "benchmarks.measure", str(folder)]
            self._process = subprocess.Popen(
                command,
                cwd=REPO_ROOT,
                env=os.environ | ENVIRONMENTS.get(job.way, {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def wait_until_ready_or_over(self) -> None:
        """Until it can be measured, or has failed."""
        while self._process.poll() is None and not (self.folder / READY).exists():
            time.sleep(POLL_S)

    def measure(self) -> list[Measurement]:
        """What came of it; the pictures are in the folder. Raises WayFailed."""
        self._process.communicate(b"\n")
        if self._process.returncode:
            raise WayFailed(f"{self._way} failed:\n{(self.folder / ERRORS).read_text()[-SHOWN_CHARS:]}")
        return MEASUREMENTS.validate_json((self.folder / RESULT).read_bytes())

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
