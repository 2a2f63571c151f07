"""What people who use the service feel of a folder job that runs through it: HTTP latency with one and without.

python -m benchmarks.folder.politeness
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import ray
import typer
from PIL import Image
from rich.table import Table

from batch.running.job import Outcome
from benchmarks.folder.setup import IN_FLIGHT, JobFailed, Scene, application, num_results, pictures
from benchmarks.folder.verdict import CONSOLE, RESULTS, Bound, OutputDir, conclude
from benchmarks.serve_ways import start_service, stop_ray
from deployments.engine.request import Pixels

MOST_SLOWDOWN = 1.5
WARM_UP = 2  # requests


def main(
    requests: Annotated[int, typer.Option(min=2, help="Of each phase, one after the other.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="How often both phases come, in turn.")] = 3,
    images: Annotated[int, typer.Option(min=2 * IN_FLIGHT, help="Of the job, which must outlast its phase.")] = 1000,
    size: Annotated[int, typer.Option(min=64, help="Sides of the square pictures, in pixels.")] = 256,
    output_dir: OutputDir = RESULTS,
) -> None:
    """Measure both phases in turn on one running service. Exit code 1: the median latency grows too much."""
    phases: dict[str, list[list[float]]] = {"idle": [], "with the job": []}
    job_rates: list[float] = []
    sent = pictures((2 * requests + WARM_UP) * rounds, size, seed=1)  # a picture that came before costs less
    with tempfile.TemporaryDirectory(prefix="folder-politeness-") as scratch:
        scene = Scene(Path(scratch))
        scene.write(images, size, application())
        try:
            url = asyncio.run(start_service(application()))
            with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
                for number in range(rounds):
                    latencies(client, sent, WARM_UP)
                    phases["idle"].append(latencies(client, sent, requests))
                    busy, rate = _with_job(scene, scene.folder / f"output{number}", client, sent, requests)
                    phases["with the job"].append(busy)
                    job_rates.append(rate)
                    CONSOLE.print(f"round {number + 1} of {rounds} done; load average {os.getloadavg()[0]:.1f}")
        finally:
            stop_ray()
    CONSOLE.print(_table(phases))
    CONSOLE.print("the job's images/s meanwhile:", ", ".join(f"{rate:.2f}" for rate in job_rates))
    medians = {phase: statistics.median(_medians(each)) for phase, each in phases.items()}
    grown = medians["with the job"] / medians["idle"]
    bound = Bound(what="median latency with the job / idle", value=grown, kind="at most", limit=MOST_SLOWDOWN)
    values = {"requests": requests, "images": images, "size": size, "latencies_s": phases, "job_rates": job_rates}
    raise typer.Exit(conclude("politeness", [bound], values | {"median_s": medians}, output_dir))


def latencies(client: httpx.Client, sent: Iterable[Pixels], count: int) -> list[float]:
    """Seconds from sending a PNG to having the answer, of `count` requests that follow each other."""
    seconds = []
    for _, picture in zip(range(count), sent, strict=False):
        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        started = time.perf_counter()
        client.post("/v1/img2img", files={"image": ("image.png", buffer.getvalue())}).raise_for_status()
        seconds.append(round(time.perf_counter() - started, 4))
    return seconds


def _with_job(
    scene: Scene, output: Path, client: httpx.Client, sent: Iterable[Pixels], requests: int
) -> tuple[list[float], float]:
    """The latencies while a job runs through the same app, and the job's images per second meanwhile."""
    with scene.job(output, ray.get_runtime_context().gcs_address) as job:
        scene.await_job_until(job, lambda: num_results(output) >= IN_FLIGHT)
        started, before = time.perf_counter(), num_results(output)
        seconds = latencies(client, sent, requests)
        rate = (num_results(output) - before) / (time.perf_counter() - started)
        if job.poll() is not None:
            raise JobFailed("the job ended before the last request: it needs more images")
        job.send_signal(signal.SIGINT)
        scene.await_job(job, Outcome.INTERRUPTED.value)
    return seconds, rate


def _medians(rounds: list[list[float]]) -> list[float]:
    return [statistics.median(seconds) for seconds in rounds]


def _table(phases: dict[str, list[list[float]]]) -> Table:
    table = Table("phase", "median of each round, s", "median, s", "p90, s", "worst, s")
    for phase, seconds in phases.items():
        every: Any = np.concatenate(seconds)
        each = ", ".join(f"{median:.3f}" for median in _medians(seconds))
        figures = statistics.median(_medians(seconds)), np.percentile(every, 90), every.max()
        table.add_row(phase, each, *(f"{figure:.3f}" for figure in figures))
    return table


if __name__ == "__main__":
    typer.run(main)
