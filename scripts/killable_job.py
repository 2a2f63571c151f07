"""Folder jobs as processes that can be killed, with their images and a running app, for tests of several runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import ray
import yaml
from PIL import Image
from rich.console import Console

from batch.cluster import find_app
from deployments.config import REPO_ROOT

NUM_IMAGES = 60
SIDE_PX = 64
MODEL = "tiny-sd15"
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"
RUN_TIMEOUT_S = 600
POLL_S = 0.02
# Ray's default is a minute, but a Ray that was killed does not come back.
RECONNECT_TIMEOUT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
CONSOLE = Console(highlight=False, soft_wrap=True)

# What a process of each kind has in its command line or, once Ray has named it, its title.
VICTIMS = {"replica": f"ServeReplica:img2img:{MODEL}", "worker": "MapWorker", "ray": "ray"}
KINDS = ("driver", *VICTIMS)


@dataclass(frozen=True, slots=True)
class JobSetup:
    """A scratch folder with `num_images` images and a configuration, and the Ray `address` of the running app."""

    folder: Path
    address: str
    num_images: int = NUM_IMAGES

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def start(self, output: Path, *options: str, own_cluster: bool = False, log: str = "log.txt") -> JobProcess:
        """Start the folder job, with a Ray cluster of its own or on the running app. `log` is a file of `folder`."""
        command = [sys.executable, "-m", "batch.run_folder", "--config", str(config_of(self.folder))]
        command += ["--input", str(self.photos), "--output", str(output), *options]
        environment = os.environ | {"RAY_ADDRESS": "local" if own_cluster else self.address, **RECONNECT_TIMEOUT}
        with (self.folder / log).open("ab") as file:
            job = subprocess.Popen(command, cwd=REPO_ROOT, env=environment, stdout=file, stderr=file)
        return JobProcess(job, psutil.Process(job.pid if own_cluster else os.getpid()))


@dataclass(slots=True, eq=False)
class JobProcess:
    """One run of the job. The processes of its Ray cluster descend from `root`."""

    job: subprocess.Popen[bytes]
    root: psutil.Process

    def kill_when(self, is_time: Callable[[], bool], kind: str) -> bool:
        """Kill a process of `kind` as soon as `is_time` and one exists. False if the job ended before."""
        while self.job.poll() is None:
            if is_time() and (victims := list(self._victims(kind))):
                members = self._cluster()
                for process in victims if kind == "ray" else victims[:1]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                self._wait(members)
                return True
            time.sleep(POLL_S)
        return False

    def finish(self) -> int:
        """Wait for the end of all processes of the job. Returns its exit code."""
        members = self._cluster()
        try:
            self.job.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            members = self._cluster()
            self.job.kill()
        self._wait(members)
        return self.job.wait()

    def _wait(self, members: Sequence[psutil.Process]) -> None:
        """Wait until the workers of an ended job, and its own cluster if it has one, are gone."""
        while self.job.poll() is not None and (left := list(self._victims("worker"))):
            psutil.wait_procs(left, 1)
        if self.job.poll() is not None and self.root.pid == self.job.pid:
            psutil.wait_procs(members, 30)

    def _cluster(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(self.root.children(recursive=True))
        return []

    def _victims(self, kind: str) -> Iterator[psutil.Process]:
        if kind == "driver":
            yield psutil.Process(self.job.pid)
            return
        for process in self._cluster():
            with suppress(psutil.Error):
                if VICTIMS[kind] in " ".join(process.cmdline()):
                    yield process


def config_of(folder: Path) -> Path:
    return folder / "serve.yaml"


@contextmanager
def job_setup(num_images: int = NUM_IMAGES) -> Iterator[JobSetup]:
    """Different images, and an app in a Ray cluster of this process. Both are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="kill-test-") as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        with Image.open(PHOTO) as opened:
            photo = opened.convert("RGB").resize((4 * SIDE_PX, 4 * SIDE_PX))
        for number in range(num_images):
            left, top = 3 * number, 2 * number
            photo.crop((left, top, left + SIDE_PX, top + SIDE_PX)).save(folder / "photos" / f"{number:02}.png")
        model = {
            "checkpoint": str(REPO_ROOT / "data" / "models" / MODEL),
            "reproducible": True,
            "compile": False,  # every trial starts replicas, which would spend most of it compiling
            "defaults": {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 2, "max_side": SIDE_PX},
        }
        app_config = {"name": "img2img", "import_path": "deployments.app:build_app", "args": {"models": {MODEL: model}}}
        config_of(folder).write_text(yaml.safe_dump({"applications": [app_config]}))
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        with ray.init("local", **quiet) as cluster, find_app(config_of(folder), "img2img", CONSOLE.print) as app:
            app.router_for([MODEL])
            yield JobSetup(folder, cluster.address_info["gcs_address"], num_images)
