"""Three short comparisons in one run: SD1.5's architecture, the embedded checkpoint over HTTP, and a queue.

python -m benchmarks.compare.suite

It prints, and writes no record: its rounds are too few to publish.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.architectures import checkpoint_for
from benchmarks.backends.registry import PackageMissing, check_installed
from benchmarks.backends.spec import Backend
from benchmarks.compare.agreement import ImagesDiffer
from benchmarks.compare.comparison import compare
from benchmarks.compare.process import BackendFailed
from benchmarks.compare.records import Options
from benchmarks.compare.report import show
from benchmarks.publishing import CACHE, RESULTS, console, provenance


def main(
    size: Annotated[int, typer.Option(help="Sides of the images of SD1.5's architecture, in pixels.")] = 256,
    images: Annotated[int, typer.Option(help="Images of SD1.5's architecture; the others make 3 and 6 times.")] = 4,
    max_steps: Annotated[int, typer.Option(help="Largest num_inference_steps of a request.")] = 10,
    rounds: Annotated[int, typer.Option(help="How often each backend runs each workload.")] = 1,
    competitors: Annotated[str, typer.Option(help="More backends for SD1.5's architecture: openvino,sdcpp")] = "",
    cache_dir: Annotated[Path, typer.Option(help="Folder that keeps built checkpoints.")] = CACHE,
) -> None:
    """Run all parts and print a table for each."""
    more: tuple[Backend, ...] = tuple(competitors.split(",")) if competitors else ()  # type: ignore[arg-type]
    failed = set[Backend]()
    try:
        check_installed(more)
        for options in parts_of(size, images, max_steps, rounds, more):
            with tempfile.TemporaryDirectory() as folder:
                facts = provenance(options.command, RESULTS, scratch=True)
                record = compare(options, facts, checkpoint_for(options.arch, cache_dir), cache_dir, Path(folder))
            show(record)
            failed |= record.failed
    except (PackageMissing, ImagesDiffer, BackendFailed) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if failed:
        raise typer.Exit(1)


def parts_of(size: int, images: int, max_steps: int, rounds: int, more: tuple[Backend, ...]) -> list[Options]:
    """SD1.5's architecture in a closed loop, the embedded checkpoint over HTTP, and Poisson arrivals."""
    mixed: tuple[Literal["mixed"], ...] = ("mixed",)
    return [
        Options(
            arch="sd15",
            size=size,
            images=images,
            backends=("script", "diffusers_best", *more, "engine"),
            mode=("closed",),
            settings=mixed,
            rounds=rounds,
            max_steps=max_steps,
        ),
        Options(
            arch="tiny",
            images=3 * images,
            backends=("script", "diffusers_best", "service", "service_fast"),
            mode=("closed",),
            settings=mixed,
            rounds=rounds,
        ),
        Options(
            arch="small",
            size=64,
            images=6 * images,
            backends=("script", "diffusers_best", "engine"),
            mode=("poisson",),
            settings=mixed,
            rounds=rounds,
            max_steps=max(14, max_steps),
        ),
    ]


if __name__ == "__main__":
    typer.run(main)
