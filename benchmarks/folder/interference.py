"""HTTP latency of the service with a folder job running through it, and without.

python -m benchmarks.folder.interference
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

import httpx2 as httpx
import ray
import typer
from PIL import Image
from rich.table import Table

from batch.running.job import Outcome
from benchmarks.backends.serving import start_service, stop_ray
from benchmarks.folder.bounds import CONSOLE, Bound, conclude, folder_provenance
from benchmarks.folder.setup import IN_FLIGHT, JobFailed, Scene, application, images_with_noise, num_results
from benchmarks.publishing import RESULTS, OutputDir, Scratch
from benchmarks.spread import tail, tail_name
from deployments.engine.request import Pixels

MOST_SLOWDOWN = 1.5
WARM_UP = 2  # requests
IDLE, BUSY = "idle", "with the job"  # the phases


def main(
    requests: Annotated[int, typer.Option(min=2, help="Requests of each phase, one after the other.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="How often both phases are measured, in turn.")] = 3,
    images: Annotated[
        int, typer.Option(min=2 * IN_FLIGHT, help="Images of the job, which must outlast its phase.")
    ] = 1000,
    size: Annotated[int, typer.Option(min=64, help="Sides of the square images, in pixels.")] = 256,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Measure both phases in turn on one running service. Exit code 1: the median latency grows too much."""
    facts = folder_provenance("interference", output_dir, scratch=scratch)
    phases: dict[str, list[list[float]]] = {IDLE: [], BUSY: []}
    job_rates: list[float] = []
    sent = images_with_noise((2 * requests + WARM_UP) * rounds, size, seed=1)  # a repeated image costs less
    with tempfile.TemporaryDirectory(prefix="folder-interference-") as folder:
        scene = Scene(Path(folder))
        scene.write(images, size, application())
        try:
            url = asyncio.run(start_service(application()))
            with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
                for number in range(rounds):
                    latencies(client, sent, WARM_UP)
                    phases[IDLE].append(latencies(client, sent, requests))
                    busy, rate = _with_job(scene, scene.folder / f"output{number}", client, sent, requests)
                    phases[BUSY].append(busy)
                    job_rates.append(rate)
                    CONSOLE.print(f"round {number + 1} of {rounds} done; load average {os.getloadavg()[0]:.1f}")
        finally:
            stop_ray()
    CONSOLE.print(_table(phases))
    CONSOLE.print("the job's images/s meanwhile:", ", ".join(f"{rate:.2f}" for rate in job_rates))
    medians = {phase: statistics.median(_medians(each)) for phase, each in phases.items()}
    grown = tuple(busy / idle for busy, idle in zip(*(_medians(phases[name]) for name in (BUSY, IDLE)), strict=True))
    bound = Bound(what="median latency with the job / idle", values=grown, kind="at most", limit=MOST_SLOWDOWN)
    values: dict[str, Any] = {
        "requests": requests,
        "images": images,
        "size": size,
        "latencies_s": phases,
        "job_rates": job_rates,
    }
    values["median_s"] = medians
    sample = {"rounds": rounds, "images": requests}
    raise typer.Exit(conclude("interference", facts, [bound], values, output_dir, scratch=scratch, **sample))


def latencies(client: httpx.Client, sent: Iterable[Pixels], count: int) -> list[float]:
    """Seconds from sending a PNG to having the answer, of `count` requests one after the other."""
    seconds = []
    for _, image in zip(range(count), sent, strict=False):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "png")
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
    every_count = sum(len(seconds) for seconds in next(iter(phases.values())))
    table = Table("phase", "median of each round, s", "median, s", f"{tail_name(every_count)}, s")
    for phase, seconds in phases.items():
        every = [latency for each_round in seconds for latency in each_round]
        each = ", ".join(f"{median:.3f}" for median in _medians(seconds))
        figures = statistics.median(_medians(seconds)), tail(every)
        table.add_row(phase, each, *(f"{figure:.3f}" for figure in figures))
    return table


if __name__ == "__main__":
    typer.run(main)
