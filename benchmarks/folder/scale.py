"""Memory and speed of folder jobs over ten thousand images each.

    python -m benchmarks.folder.scale --images 10000

Memory is the unique set size (USS), what would be free again if the process ended: libraries and the object store,
which all of Ray's processes share, do not count once for each. Their part is in the PSS of all processes together.

A machine that others share has its faster and slower minutes. So each sample times the same small piece of work, and
the speed of a job is also judged against the machine's own at the time: if only that bound holds, measure again.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.table import Table

from benchmarks.folder.bounds import CONSOLE, QUARTERS, Bound, conclude, folder_provenance, median_within, quarter_rates
from benchmarks.folder.sampler import KINDS, Sample, sample_until_end
from benchmarks.folder.setup import JobFailed, Scene, application, finish_times, num_results
from benchmarks.publishing import RESULTS, OutputDir, Scratch
from training.pipelines import UNET, make_pipeline, sd15_scheduler
from training.tokenizer import make_tokenizer

SIZE = 64
SETTINGS = {"max_side": SIZE, "strength": 0.5, "num_inference_steps": 4, "guidance_scale": 1}
EARLY, LATE = (0.1, 0.15), (0.95, 1.0)  # of the images: where memory is compared
JUDGED = ("driver", "workers")  # kinds of processes whose memory may not grow
MOST_GROWTH, LEAST_RATE, MOST_RESUME_S = 1.1, 0.95, 10.0


class Run(NamedTuple):
    """One job: its samples, when each image was finished (s), and the seconds of the same command afterwards."""

    samples: list[Sample]
    finished: list[float]
    resume_s: float


def main(
    images: Annotated[int, typer.Option(min=200, help="Images of each job.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="How many jobs run, one after the other.")] = 3,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Map the images with the smallest of models, then run the same command again. Exit code 1: a bound is missed."""
    facts = folder_provenance("scale", output_dir, scratch=scratch)
    with tempfile.TemporaryDirectory(prefix="folder-scale-") as name:
        scene = Scene(Path(name))
        checkpoint = _smallest_checkpoint(scene.folder / "checkpoint")
        scene.write(images, SIZE, application(checkpoint=str(checkpoint), defaults=SETTINGS))
        runs = []
        for number in range(rounds):
            load_average = os.getloadavg()[0]
            CONSOLE.print(f"round {number + 1} of {rounds}: {images} images; load average {load_average:.1f}")
            runs.append(_run(scene, scene.folder / f"output{number}", images))
            show(runs[-1], images)
    values = {"images": images, "rounds": [_values(run, images) for run in runs]}
    sample = {"rounds": rounds, "images": images}
    raise typer.Exit(conclude("scale", facts, bounds_of(runs, images), values, output_dir, scratch=scratch, **sample))


def _run(scene: Scene, output: Path, images: int) -> Run:
    with scene.job(output) as job:
        samples = sample_until_end(job, output)
        scene.await_job(job)
    return Run(samples, finish_times(output, images), _resume(scene, output))


def bounds_of(runs: Sequence[Run], images: int) -> list[Bound]:
    """What memory, speed and the second command of every run are held to."""
    growths = [memory_growths(run.samples, images) for run in runs]
    slowing, by_pace = [], []
    for run in runs:
        rates, paces = quarter_rates(run.finished), quarter_paces(run.samples, images)
        slowing.append(rates[-1] / rates[0])
        by_pace.append(slowing[-1] / (paces[-1] / paces[0]))
    again = tuple(run.resume_s for run in runs)
    speed, own = "images/s, last quarter / first", "images/s by the machine's own speed, last quarter / first"
    return [
        *(_at_most(f"memory of the {kind}, end / early", (g[kind] for g in growths), MOST_GROWTH) for kind in JUDGED),
        Bound(what=speed, values=tuple(slowing), kind="at least", limit=LEAST_RATE),
        Bound(what=own, values=tuple(by_pace), kind="at least", limit=LEAST_RATE),
        _at_most("the same command again, s", again, MOST_RESUME_S),
    ]


def _at_most(what: str, values: Iterable[float], limit: float) -> Bound:
    return Bound(what=what, values=tuple(values), kind="at most", limit=limit)


def _values(run: Run, images: int) -> dict[str, Any]:
    """The raw values of a run, thinned."""
    return {
        "quarter_rates": quarter_rates(run.finished),
        "quarter_paces": quarter_paces(run.samples, images),
        "samples": [sample._asdict() for sample in run.samples],
        "finished_s": [round(moment - run.finished[0], 3) for moment in run.finished[:: max(images // 200, 1)]],
    }


def _smallest_checkpoint(folder: Path) -> Path:
    """A checkpoint of random weights, so small that most of an image's time is the job's own."""
    torch.manual_seed(0)
    make_pipeline(sd15_scheduler(), UNET).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")
    return folder


def show(run: Run, images: int) -> None:
    """Print a run's memory and speed."""
    CONSOLE.print(memory_table(run.samples, images), speed_table(run.samples, images, quarter_rates(run.finished)))


def memory_growths(samples: Sequence[Sample], images: int) -> dict[str, float]:
    """USS at the end of the images divided by that after the first tenth, for each kind of process."""
    early, late = ([images * part for part in parts] for parts in (EARLY, LATE))
    points = {kind: _uss(samples, kind) for kind in JUDGED}
    return {kind: median_within(p, *late) / median_within(p, *early) for kind, p in points.items()}


def memory_table(samples: Sequence[Sample], images: int) -> Table:
    """The memory of each kind of process after the first tenth of the images and at their end."""
    early, late = ([images * part for part in parts] for parts in (EARLY, LATE))
    head = "USS, MiB", f"{early[0]:.0f}-{early[1]:.0f} done", f"{late[0]:.0f}-{late[1]:.0f} done", "most", "CPU s"
    table = Table(*head)
    for kind in ("driver", *KINDS, "rest"):
        cpu_s = max(sample.cpu_s.get(kind, 0.0) for sample in samples)
        table.add_row(kind, *_memory_texts(_uss(samples, kind), early, late), f"{cpu_s:.1f}")
    everything = [(sample.done, sample.pss_mib) for sample in samples]
    table.add_row("all, PSS", *_memory_texts(everything, early, late), "")
    return table


def _memory_texts(points: Sequence[tuple[int, float]], early: Sequence[float], late: Sequence[float]) -> list[str]:
    figures = median_within(points, *early), median_within(points, *late), max(value for _, value in points)
    return [f"{value:.1f}" for value in figures]


def _uss(samples: Sequence[Sample], kind: str) -> list[tuple[int, float]]:
    """Images done and MiB."""
    return [(sample.done, sample.uss_mib[kind]) for sample in samples if kind in sample.uss_mib]


def quarter_paces(samples: Sequence[Sample], images: int) -> list[float]:
    """The machine's own speed in each quarter of the images."""
    return [statistics.median(sample.pace for sample in part) for part in quarters(samples, images)]


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
