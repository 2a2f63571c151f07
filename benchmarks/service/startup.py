"""Seconds from `serve run` until the models of serve_config.yaml are ready, beside an application without models.

python -m benchmarks.service.startup
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import typer
import yaml
from fastapi.responses import PlainTextResponse
from ray import serve
from ray.serve import Application

from benchmarks.ports import free_port
from benchmarks.publishing import (
    RESULTS,
    OutputDir,
    PublishedRecord,
    Scratch,
    console,
    provenance,
    write_record,
)
from benchmarks.spread import spread
from deployments.config import REPO_ROOT

TIMEOUT_S = 120.0
EMPTY = {"applications": [{"name": "empty", "import_path": "benchmarks.service.startup:build_app", "args": {}}]}


class StartupRecord(PublishedRecord):
    """Seconds of every start of the empty application and of this project's."""

    empty_s: tuple[float, ...]
    img2img_s: tuple[float, ...]


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Empty:
    """Answers every request."""

    async def __call__(self) -> PlainTextResponse:
        """200."""
        return PlainTextResponse("ready")


def build_app(args: dict[str, Any]) -> Application:
    """The least that Serve can serve."""
    empty: Any = Empty
    application: Application = empty.bind()
    return application


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each application, in turn.")] = 6,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Start both applications in turn and print their seconds."""
    facts = provenance(f"python -m benchmarks.service.startup --rounds {rounds}", output_dir, scratch=scratch)
    ours = yaml.safe_load((REPO_ROOT / "serve_config.yaml").read_text())
    seconds: dict[str, list[float]] = {"empty_s": [], "img2img_s": []}
    for _ in range(rounds):
        seconds["empty_s"].append(start(EMPTY, answers))
        seconds["img2img_s"].append(start(ours, all_ready))
        console.print(", ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items()))
    console.print("medians:", ", ".join(f"{name} {spread(values)}" for name, values in seconds.items()))
    record = StartupRecord(**facts, **seconds)
    write_record(record, "startup", output_dir, scratch=scratch, rounds=rounds, images=None)


def answers(client: httpx.Client) -> bool:
    """Whether the empty application answers."""
    return client.get("/").is_success


def all_ready(client: httpx.Client) -> bool:
    """Whether every model can take a request."""
    models = client.get("/v1/models").raise_for_status().json()["data"]
    return all(model["ready"] for model in models)


def start(config: dict[str, Any], is_ready: Callable[[httpx.Client], bool]) -> float:
    """Seconds from `serve run` of this configuration until it is ready; it is stopped again."""
    port = free_port()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job ignores it: so would its child
    with tempfile.TemporaryDirectory() as folder, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(config | {"http_options": {"host": "127.0.0.1", "port": port}}))
        started = time.perf_counter()
        command = [str(Path(sys.executable).parent / "serve"), "run", str(path)]
        environment = os.environ | {"RAY_ADDRESS": "local"}
        process = subprocess.Popen(
            command, cwd=REPO_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                try:
                    if is_ready(client):
                        return round(time.perf_counter() - started, 2)
                except httpx.HTTPError:
                    pass
                assert process.poll() is None, "serve run has ended"
                assert time.perf_counter() - started < TIMEOUT_S, "it is not ready"
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    typer.run(main)
