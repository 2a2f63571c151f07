"""How long after `serve run` the models of serve_config.yaml are ready, beside an application that has none.

python -m benchmarks.startup > benchmarks/results/startup.json
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from ray import serve
from ray.serve import Application
from starlette.responses import PlainTextResponse

from benchmarks.machine import describe_machine, git_commit
from benchmarks.serve_ways import free_port
from deployments.config import REPO_ROOT

ROUNDS, PATIENCE_S = 6, 120.0
EMPTY = {"applications": [{"name": "empty", "import_path": "benchmarks.startup:build_app", "args": {}}]}


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Empty:
    """Says that it is there."""

    async def __call__(self) -> PlainTextResponse:
        """200."""
        return PlainTextResponse("ready")


def build_app(args: dict[str, Any]) -> Application:
    """The least that Serve can serve."""
    empty: Any = Empty
    application: Application = empty.bind()
    return application


def main() -> None:
    """Start both in turn, `ROUNDS` times, and print the seconds, medians and all, as JSON."""
    ours = yaml.safe_load((REPO_ROOT / "serve_config.yaml").read_text())
    seconds: dict[str, list[float]] = {"empty": [], "img2img": []}
    for _ in range(ROUNDS):
        seconds["empty"].append(start(EMPTY, answers))
        seconds["img2img"].append(start(ours, all_ready))
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    figures = {"seconds": seconds, "medians": medians, "later_s": round(medians["img2img"] - medians["empty"], 2)}
    print(json.dumps({**facts, "machine": describe_machine().model_dump(), **figures}, indent=1))


def answers(client: httpx.Client) -> bool:
    """Whether the empty application does."""
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
                assert time.perf_counter() - started < PATIENCE_S, "it is not ready"
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    main()
