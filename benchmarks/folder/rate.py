"""How much of the engine's own speed a folder job reaches, on the same images, settings and machine.

    python -m benchmarks.folder.rate --images 400

Both speeds leave out the first images, which start-up delays: as many as are in flight at a time.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.folder.bounds import CONSOLE, Bound, conclude, folder_provenance, steady_rate
from benchmarks.folder.setup import DEPLOYMENTS, IN_FLIGHT, SHOWN_CHARS, JobFailed, Scene, application, finish_times
from benchmarks.publishing import RESULTS, OutputDir, Scratch
from deployments.config import REPO_ROOT

LEAST_PART = 0.9
READY = re.compile(r"(\S+): healthy\b")


def main(
    images: Annotated[int, typer.Option(min=4 * IN_FLIGHT, help="Images of each run.")] = 400,
    size: Annotated[int, typer.Option(min=64, help="Sides of the square images, in pixels.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="How often each of the two runs, in turn.")] = 3,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Measure the engine and the job in turn. Exit code 1: the job is below nine tenths of the engine."""
    facts = folder_provenance("rate", output_dir, scratch=scratch)
    runs: list[dict[str, Any]] = []
    table = Table("round", "engine, images/s", "job, images/s", "job / engine", "job since ready, images/s", "load")
    with tempfile.TemporaryDirectory(prefix="folder-rate-") as folder:
        scene = Scene(Path(folder))
        scene.write(images, size, application())
        for number in range(rounds):
            load_average = os.getloadavg()[0]
            engine = steady_rate(alone := _run_engine(scene), IN_FLIGHT)
            ready, finished = _run_job(scene, scene.folder / f"output{number}", images)
            job, whole = steady_rate(finished, IN_FLIGHT), images / (finished[-1] - ready)
            rates = {"engine": engine, "job": job, "job_since_ready": whole, "load_average": load_average}
            raw = {"engine_finished_s": _from(alone[0], alone), "job_finished_s": _from(ready, finished)}
            runs.append(rates | raw)
            figures = engine, job, job / engine, whole, load_average
            table.add_row(str(number + 1), *(f"{figure:.2f}" for figure in figures))
            CONSOLE.print(f"round {number + 1}: engine {engine:.2f}, job {job:.2f}, since it was ready {whole:.2f}")
    CONSOLE.print(table)
    medians = {name: statistics.median(run[name] for run in runs) for name in ("engine", "job", "job_since_ready")}
    CONSOLE.print("medians, images/s:", ", ".join(f"{name} {median:.2f}" for name, median in medians.items()))
    parts = tuple(run["job"] / run["engine"] for run in runs)
    bound = Bound(what="the job's images/s / the engine's own", values=parts, kind="at least", limit=LEAST_PART)
    values = {"images": images, "size": size, "in_flight": IN_FLIGHT, "medians": medians, "rounds": runs}
    sample = {"rounds": rounds, "images": images}
    raise typer.Exit(conclude("rate", facts, [bound], values, output_dir, scratch=scratch, **sample))


def _run_engine(scene: Scene) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.folder.engine_only", str(scene.config), str(scene.photos)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Ray sets it for the replica
    done = subprocess.run(command, cwd=REPO_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise JobFailed(f"the engine failed:\n{done.stderr[-SHOWN_CHARS:]}")
    finished: list[float] = json.loads(done.stdout)
    return finished


def _run_job(scene: Scene, output: Path, images: int) -> tuple[float, list[float]]:
    """When the app was ready, and the finish times."""
    with scene.job(output) as job:
        ready = scene.await_job_until(job, lambda: is_ready(scene.log.read_text()))
        scene.await_job(job)
    return ready, finish_times(output, images)


def is_ready(log: str) -> bool:
    """Whether the job has reported that the router and the model take requests."""
    return set(DEPLOYMENTS) <= set(READY.findall(log))


def _from(start: float, moments: list[float]) -> list[float]:
    return [round(moment - start, 3) for moment in moments]


if __name__ == "__main__":
    typer.run(main)
