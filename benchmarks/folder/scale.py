"""Memory and speed of a folder job over ten thousand images.

    python -m benchmarks.folder.scale --images 10000

Memory is the unique set size (USS), what would be free again if the process ended: libraries and the object store,
which all of Ray's processes share, do not count once for each. Their part is in the PSS of all processes together.

A machine that others share has its faster and slower minutes. So each sample times the same small piece of work, and
the speed of the job is also judged against the machine's own at the time: if only that bound holds, run it again.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.folder.bounds import CONSOLE, QUARTERS, Bound, conclude, median_within, quarter_rates
from benchmarks.folder.sampler import KINDS, Sample, sample_until_end
from benchmarks.folder.setup import JobFailed, Scene, application, finish_times, num_results
from benchmarks.publishing import RESULTS, OutputDir, Scratch, refuse_dirty_tree
from training.pipelines import UNET, make_pipeline, sd15_scheduler
from training.tokenizer import make_tokenizer

SIZE = 64
SETTINGS = {"max_side": SIZE, "strength": 0.5, "num_inference_steps": 4, "guidance_scale": 1}
EARLY, LATE = (0.1, 0.15), (0.95, 1.0)  # of the images: where memory is compared
MOST_GROWTH, LEAST_RATE, MOST_RESUME_S = 1.1, 0.95, 10.0


def main(
    images: Annotated[int, typer.Option(min=200)] = 10_000,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Map the images with the smallest of models, then run the same command again. Exit code 1: a bound is missed."""
    refuse_dirty_tree(output_dir, scratch=scratch)
    with tempfile.TemporaryDirectory(prefix="folder-scale-") as name:
        folder = Path(name)
        scene, output = Scene(folder), folder / "output"
        checkpoint = _smallest_checkpoint(folder / "checkpoint")
        scene.write(images, SIZE, application(checkpoint=str(checkpoint), defaults=SETTINGS))
        CONSOLE.print(f"{images} images of {SIZE} px; load average {os.getloadavg()[0]:.1f}")
        with scene.job(output) as job:
            samples = sample_until_end(job, output)
            scene.await_job(job)
        finished = finish_times(output, images)
        resume_s = _resume(scene, output)
    memory, growths = memory_bounds(samples, images)
    rates = quarter_rates(finished)
    paces = [statistics.median(sample.pace for sample in part) for part in quarters(samples, images)]
    CONSOLE.print(memory, speed_table(samples, images, rates))
    bounds = [
        *growths,
        Bound(what="images/s, last quarter / first", value=rates[-1] / rates[0], kind="at least", limit=LEAST_RATE),
        Bound(
            what="images/s by the machine's own speed, last quarter / first",
            value=(rates[-1] / paces[-1]) / (rates[0] / paces[0]),
            kind="at least",
            limit=LEAST_RATE,
        ),
        Bound(what="the same command again, s", value=resume_s, kind="at most", limit=MOST_RESUME_S),
    ]
    values = {
        "images": images,
        "quarter_rates": rates,
        "quarter_paces": paces,
        "samples": [sample._asdict() for sample in samples],
        "finished_s": [round(moment - finished[0], 3) for moment in finished[:: max(images // 200, 1)]],
    }
    raise typer.Exit(conclude("scale", bounds, values, output_dir, scratch=scratch))


def _smallest_checkpoint(folder: Path) -> Path:
    """A checkpoint of random weights, so small that most of an image's time is the job's own."""
    torch.manual_seed(0)
    make_pipeline(sd15_scheduler(), UNET).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")
    return folder


def memory_bounds(samples: Sequence[Sample], images: int) -> tuple[Table, list[Bound]]:
    """The memory of each kind of process after the first tenth of the images and at their end, and the bounds."""
    early, late = ([images * part for part in parts] for parts in (EARLY, LATE))
    head = "USS, MiB", f"{early[0]:.0f}-{early[1]:.0f} done", f"{late[0]:.0f}-{late[1]:.0f} done", "most", "CPU s"
    table, bounds = Table(*head), []
    for kind in ("driver", *KINDS, "rest"):
        points = [(sample.done, sample.uss_mib[kind]) for sample in samples if kind in sample.uss_mib]
        before, after = median_within(points, *early), median_within(points, *late)
        cpu_s = max(sample.cpu_s.get(kind, 0.0) for sample in samples)
        most = max(value for _, value in points)
        table.add_row(kind, *(f"{value:.1f}" for value in (before, after, most, cpu_s)))
        if kind in ("driver", "workers"):
            what = f"memory of the {kind}, end / after {early[0]:.0f}"
            bounds.append(Bound(what=what, value=after / before, kind="at most", limit=MOST_GROWTH))
    shared = [(sample.done, sample.pss_mib) for sample in samples]
    totals = median_within(shared, *early), median_within(shared, *late), max(pss for _, pss in shared)
    table.add_row("all, PSS", *(f"{value:.1f}" for value in totals), "")
    return table, bounds


def quarters(samples: Sequence[Sample], images: int) -> list[list[Sample]]:
    """The samples of each quarter of the images, start-up left out."""
    edges = [max(1, images * number / QUARTERS) for number in range(QUARTERS + 1)]
    return [[sample for sample in samples if a <= sample.done < b] for a, b in zip(edges, edges[1:], strict=False)]


def speed_table(samples: Sequence[Sample], images: int, rates: Sequence[float]) -> Table:
    """The speed in each quarter, and what tells a slower job from a slower machine: its pace and the CPU time."""
    head = "quarter", "images/s", "machine's pace", "load average"
    table = Table(*head, *(f"{kind}, CPU ms/image" for kind in ("driver", *KINDS)))
    for number, (rate, part) in enumerate(zip(rates, quarters(samples, images), strict=True), 1):
        load, pace = statistics.fmean(sample.load_average for sample in part), statistics.median(s.pace for s in part)
        cpu_ms = [1000 * _cpu_per_image(part, kind) for kind in ("driver", *KINDS)]
        table.add_row(str(number), f"{rate:.2f}", f"{pace:.2f}", f"{load:.1f}", *(f"{figure:.1f}" for figure in cpu_ms))
    return table


def _cpu_per_image(part: Sequence[Sample], kind: str) -> float:
    first, last = part[0], part[-1]
    seconds = last.cpu_s.get(kind, 0.0) - first.cpu_s.get(kind, 0.0)
    return seconds / (last.done - first.done) if last.done > first.done else float("nan")


def _resume(scene: Scene, output: Path) -> float:
    """Seconds that the same command takes when nothing is left to do."""
    images = num_results(output)
    started = time.perf_counter()
    with scene.job(output) as job:
        scene.await_job(job)
        seconds = time.perf_counter() - started
    if f"0 to make, {images} done before" not in scene.log.read_text():
        raise JobFailed(f"the second run did not find everything done:\n{scene.log.read_text()}")
    return seconds


if __name__ == "__main__":
    typer.run(main)
