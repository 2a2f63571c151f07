"""What a measurement of the folder job needs: images, a configuration, the job as a process, and its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import yaml
from PIL import Image

from batch.record.results import RESULTS_FILE
from benchmarks.compare.workload import PHOTOS
from deployments.config import REPO_ROOT
from deployments.engine.request import Pixels

MODEL = "tiny-sd15"
DEPLOYMENTS = ("router", MODEL)  # those that an image passes
NOISE = 8  # levels up and down: the images differ everywhere, and are still photos
IN_FLIGHT = 16  # images; the job's own default
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
SHOWN_CHARS = 3000


class JobFailed(Exception):
    """The folder job did not do what is to be measured, and the message says why."""


def images_with_noise(count: int, size: int, seed: int = 0) -> Iterator[Pixels]:
    """Squares out of the embedded photos, (size, size, 3), each with noise of its own: no two are alike."""
    rng = np.random.default_rng(seed)
    photos = [_shrunk(path, 2 * size) for path in sorted(PHOTOS.rglob("*.jpg"))]
    for _ in range(count):
        photo = photos[rng.integers(len(photos))]
        top, left = (int(rng.integers(side - size + 1)) for side in photo.shape[:2])
        noise = rng.integers(-NOISE, NOISE + 1, (size, size, 3))
        yield np.clip(photo[top : top + size, left : left + size] + noise, 0, 255).astype(np.uint8)


def _shrunk(path: Path, shorter_side: int) -> Pixels:
    with Image.open(path) as opened:
        scale = shorter_side / min(opened.size)
        width, height = (round(side * scale) for side in opened.size)
        return np.array(opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


def write_images(folder: Path, count: int, size: int) -> None:
    """`count` JPEG files."""
    folder.mkdir()
    for number, image in enumerate(images_with_noise(count, size)):
        Image.fromarray(image).save(folder / f"{number:06}.jpg", quality=90)


def application(**changes: Any) -> dict[str, Any]:
    """The application of serve_config.yaml with one model, whose settings there are changed by `changes`."""
    (app,) = yaml.safe_load((REPO_ROOT / "serve_config.yaml").read_text())["applications"]
    models = {MODEL: app["args"]["models"][MODEL] | changes}
    deployments = [options for options in app["deployments"] if options["name"] in DEPLOYMENTS]
    return {**app, "args": {**app["args"], "models": models}, "deployments": deployments}


@dataclass(frozen=True, slots=True)
class Scene:
    """A folder of images, the configuration of the app that maps them, and a log of the jobs' output."""

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def config(self) -> Path:
        return self.folder / "serve.yaml"

    @property
    def log(self) -> Path:
        """The output of the last job."""
        return self.folder / "log.txt"

    def write(self, count: int, size: int, app: dict[str, Any]) -> None:
        """Write `count` images of `size` px, and the configuration."""
        write_images(self.photos, count, size)
        self.config.write_text(yaml.safe_dump({"applications": [app]}))

    @contextmanager
    def job(self, output: Path, ray_address: str = "local") -> Iterator[subprocess.Popen[bytes]]:
        """The folder job, by default in a Ray cluster of its own. What is left of it at the end is killed."""
        options = {"config": self.config, "input": self.photos, "output": output, "concurrency": IN_FLIGHT}
        command = [sys.executable, "-m", "batch.run_folder", *(f"--{name}={value}" for name, value in options.items())]
        environment = {**os.environ, "RAY_ADDRESS": ray_address, "RAY_USAGE_STATS_ENABLED": "0"}
        with self.log.open("wb") as log:
            job = subprocess.Popen(command, cwd=REPO_ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield job
        finally:
            left = family(job)  # nothing where it ended by itself
            job.kill()
            job.wait()
            _, alive = psutil.wait_procs(left, STOP_TIMEOUT_S)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def await_job(self, job: subprocess.Popen[bytes], code: int = 0) -> None:
        """Wait for the end. Raises JobFailed for another exit code."""
        if job.wait() != code:
            raise JobFailed(f"the job ended with exit code {job.returncode}:\n{self.log.read_text()[-SHOWN_CHARS:]}")

    def await_job_until(self, job: subprocess.Popen[bytes], condition: Callable[[], bool]) -> float:
        """The time (of `time.time()`) when the condition is first seen to hold. Raises JobFailed if it ends before."""
        while not condition():
            if job.poll() is not None:
                raise JobFailed(f"the job ended too early:\n{self.log.read_text()[-SHOWN_CHARS:]}")
            time.sleep(POLL_S)
        return time.time()


def family(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of the job's own Ray cluster: all that descend from it."""
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(job.pid).children(recursive=True))
    return []


def num_results(output: Path) -> int:
    """How many lines the record has."""
    with suppress(FileNotFoundError):
        return (output / RESULTS_FILE).read_bytes().count(b"\n")
    return 0


def finish_times(output: Path, count: int) -> list[float]:
    """When each of the `count` images was finished (as of `time.time()`), sorted. Raises JobFailed if one was not."""
    rows = [json.loads(line) for line in (output / RESULTS_FILE).read_bytes().splitlines()]
    failed = [f"{row['source']}: {row['error_type']}: {row['error']}" for row in rows if row["error_type"]]
    if failed or len(rows) != count:
        raise JobFailed(f"{len(rows)} results of {count} images, {len(failed)} failed: {failed[:3]}")
    return sorted(datetime.fromisoformat(row["finished_at"]).timestamp() for row in rows)
