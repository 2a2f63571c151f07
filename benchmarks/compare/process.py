"""A process for each backend that is measured, so that no other backend holds memory or a core meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.backends.spec import Backend
from benchmarks.compare.records import Cell, Job, Measurement
from deployments.config import REPO_ROOT
from deployments.replica.process_env import LARGE_PAGES, SLEEPING_THREADS

MEASUREMENTS = TypeAdapter(list[Measurement])
JOB, ERRORS, RESULT = "job.json", "errors.txt", "measurements.json"
READY = "ready"  # a file that is written when the backend is open and compiled
POLL_S = 0.05
# What the application sets for the engine, and what helps diffusers; whoever runs a plain script sets nothing.
ENVIRONMENTS: dict[Backend, dict[str, str]] = {
    "engine": LARGE_PAGES | SLEEPING_THREADS,
    "diffusers_best": LARGE_PAGES,
}
SHOWN_CHARS = 3000  # the end of a failing backend's output, where the error is


class BackendFailed(Exception):
    """A backend did not get through its requests, and the message says why."""


def images_file(folder: Path, cell: Cell) -> Path:
    """Where a cell's images are: one array (images, height, width, 3), in the order of the requests."""
    return folder / f"{cell.settings}-{cell.mode}-{cell.repeat}.npy"


def is_my_turn() -> bool:
    """Wait for the line that starts a measurement; False if the parent process is gone."""
    return bool(sys.stdin.readline())


class BackendProcess:
    """Opens the job's backend at once, and measures it when asked to. Its files are in `folder`."""

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.backend, self.folder = job.spec.backend, folder
        (folder / JOB).write_text(job.model_dump_json())
        with (folder / ERRORS).open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.compare.worker", str(folder)],
                cwd=REPO_ROOT,
                env=os.environ | _environment(self.backend),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def wait_until_open(self) -> None:
        """Until it can be measured, or has failed."""
        while self._process.poll() is None and not (self.folder / READY).exists():
            time.sleep(POLL_S)

    def measure(self) -> list[Measurement]:
        """One measurement for each cell; the images are in the folder. Raises BackendFailed."""
        self._process.communicate(b"\n")
        if self._process.returncode:
            output = (self.folder / ERRORS).read_text()[-SHOWN_CHARS:]
            raise BackendFailed(f"{self.backend} failed:\n{output}")
        return MEASUREMENTS.validate_json((self.folder / RESULT).read_bytes())

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()


@contextmanager
def opened_together(jobs: list[Job], folder: Path) -> Iterator[list[BackendProcess]]:
    """The jobs' processes, once all are open: nobody is measured while others compile. They are stopped at the end."""
    with ExitStack() as stack:
        processes = []
        for number, job in enumerate(jobs):
            processes.append(BackendProcess(job, folder / f"{number}-{job.spec.backend}"))
            stack.callback(processes[-1].stop)
        for process in processes:
            process.wait_until_open()
        yield processes


def _environment(backend: Backend) -> dict[str, str]:
    if backend != "service_fast":
        return ENVIRONMENTS.get(backend, {})
    from benchmarks.backends.serving import BEHIND_HAPROXY  # imports Ray

    return BEHIND_HAPROXY
