"""How two replicas get on with two cores: UNet steps per second alone and side by side, by OpenMP's manner of waiting.

python -m benchmarks.contention > benchmarks/results/contention.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.machine import describe_machine, git_commit
from deployments.config import REPO_ROOT, ModelConfig
from deployments.replica.build import build_runner
from deployments.replica.process_env import SLEEPING_THREADS

SECONDS, ROUNDS, START_UP_S = 4.0, 2, 10.0
MANNERS: dict[str, dict[str, str]] = {
    "spinning (default)": {},
    "OMP_WAIT_POLICY=PASSIVE (ours)": SLEEPING_THREADS,
}


def main() -> None:
    """Measure each manner in turn, `ROUNDS` times, and print medians as JSON."""
    figures: dict[str, dict[str, list[float]]] = {name: {"alone": [], "two_together": []} for name in MANNERS}
    for _ in range(ROUNDS):
        for name, environment in MANNERS.items():
            figures[name]["alone"] += measure(1, environment)
            figures[name]["two_together"].append(sum(measure(2, environment)))
    medians = {name: {k: round(statistics.median(v), 1) for k, v in figure.items()} for name, figure in figures.items()}
    facts: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    print(json.dumps({**facts, "machine": describe_machine().model_dump(), "steps_per_second": medians}, indent=1))


def measure(processes: int, environment: dict[str, str]) -> list[float]:
    """Steps per second of each of `processes` that work at the same time."""
    command = [sys.executable, "-m", "benchmarks.contention", str(time.time() + START_UP_S)]
    env = {**os.environ, **environment}
    workers = [
        subprocess.Popen(command, cwd=REPO_ROOT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return [float(worker.communicate()[0]) for worker in workers]


@torch.inference_mode()
def work(start_at: float) -> None:
    """Guided steps at 256 px on the embedded checkpoint, from the given time on; prints steps per second."""
    torch.set_num_threads(os.cpu_count() or 1)
    runner = build_runner(ModelConfig(checkpoint="data/models/tiny-sd15", dtype="float32"))
    unet = runner.checkpoint.unet
    context = torch.stack([condition.context for condition in runner.conditioner.text.encode(["", "a cat"])])
    latents, times = torch.randn(2, 8, 64, 64), unet.times(torch.full((2,), 500.0))
    time.sleep(max(0.0, start_at - time.time()))
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        unet(latents, times, context)
        steps += 1
    print(steps / (time.perf_counter() - started))


if __name__ == "__main__":
    work(float(sys.argv[1])) if len(sys.argv) > 1 else main()
