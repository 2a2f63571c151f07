"""Measures the ways side by side, the same requests through each, and writes the numbers, a plot and a table.

python -m benchmarks.compare --arch tiny --images 16 --rounds 3
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks.architectures import checkpoint_for
from benchmarks.machine import describe_machine, git_commit
from benchmarks.plot import draw
from benchmarks.processes import WayFailed, WayProcess, pictures_file
from benchmarks.records import Cell, Job, Measurement, Mode, Options, Record, SettingsKind
from benchmarks.report import HEADERS, cell_texts, notes, title
from benchmarks.runners import PackageMissing, check_installed
from benchmarks.summary import Pictures, PicturesDiffer, cells, check_pictures, control, rows
from benchmarks.workload import poisson_arrivals
from deployments.config import REPO_ROOT

CACHE = REPO_ROOT / "benchmarks" / ".cache"
RESULTS = REPO_ROOT / "benchmarks" / "results"
ALL = ("all", "both")
console = Console(width=max(Console().width, 160))


def main(
    arch: Annotated[str, typer.Option(help="tiny (embedded), small, sd15, sd21, sdxl (random) or a folder.")] = "tiny",
    size: Annotated[int, typer.Option(help="Sides of the square pictures, in pixels.")] = 256,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the engine and the service, as in the configuration.")] = "auto",
    reproducible: Annotated[bool, typer.Option(help="Run the engine and the service reproducibly.")] = False,
    max_rows: Annotated[int | None, typer.Option(help="Of the engine's and the service's step batches.")] = None,
    ways: Annotated[str, typer.Option(help="Comma-separated, or all that the device can run.")] = "all",
    mode: Annotated[str, typer.Option(help="closed, poisson or both.")] = "both",
    settings: Annotated[str, typer.Option(help="uniform, mixed, both; guided, single.")] = "both",
    images: Annotated[int, typer.Option(help="Requests of each workload.")] = 16,
    rounds: Annotated[int, typer.Option(help="How often each way runs each workload.")] = 3,
    clients: Annotated[int, typer.Option(help="Of the closed loop.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Of the ways batch and serve_batch.")] = 4,
    load: Annotated[float, typer.Option(help="Poisson arrivals, as a part of what the script can do.")] = 0.8,
    max_steps: Annotated[int, typer.Option(help="The most inference steps a request asks for.")] = 30,
    together: Annotated[bool, typer.Option(help="Open all ways at the same time; each is still timed alone.")] = False,
    seed: Annotated[int, typer.Option(help="Of the pictures, settings and arrivals.")] = 0,
    cache_dir: Annotated[Path, typer.Option(help="Where built checkpoints are kept for the next time.")] = CACHE,
    output_dir: Annotated[Path, typer.Option(help="Where the numbers and the plot go.")] = RESULTS,
) -> None:
    """Compare the ways and say where the results are."""
    values = {name: value for name, value in locals().items() if name in Options.model_fields and value is not None}
    options = _options(values)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            check_installed(options.ways)
            record = compare(options, cache_dir, Path(scratch))
        except PackageMissing as error:
            raise typer.BadParameter(str(error), param_hint="--ways") from error
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--arch") from error
        except (PicturesDiffer, WayFailed) as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(1) from error
    show(record)
    save(record, output_dir)
    if record.failed:
        raise typer.Exit(1)


def _options(values: dict[str, Any]) -> Options:
    """The command line's words as checked options. Raises typer.BadParameter naming the option."""
    lists = {name: values.pop(name).split(",") for name in ("ways", "mode", "settings")}
    lists = {name: words for name, words in lists.items() if words[0] not in ALL}
    if values["device"] == "auto":
        values["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if values["device"] == "cuda":
        lists.setdefault("ways", [*Options.model_fields["ways"].default, "script_offload"])
    try:
        return Options(**{**values, **lists})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(first["msg"], param_hint="--" + str(first["loc"][0]).replace("_", "-")) from error


def compare(options: Options, cache_dir: Path, scratch: Path) -> Record:
    """Run every way in turn, `options.rounds` times; built checkpoints and exports are kept in `cache_dir`.

    A way that fails is told and left out; without the script there is nothing to compare with, and its failure is
    raised as WayFailed. Raises PicturesDiffer when a way gives other pictures, ValueError for an unknown architecture.
    """
    files = {"checkpoint": str(checkpoint_for(options.arch, cache_dir)), "cache_dir": str(cache_dir)}
    solo = _solo_latencies(options, files, scratch) if "poisson" in options.mode else {}
    rates = {settings: options.load * len(seconds) / sum(seconds) for settings, seconds in solo.items()}
    workloads = tuple(_cell(options, settings, mode, rates) for settings in options.settings for mode in options.mode)
    references: dict[Cell, tuple[Pictures, str]] = {}  # the script's pictures and their number format
    measurements: list[Measurement] = []
    for number in range(options.rounds):
        jobs = [Job(way=way, options=options, cells=workloads, **files) for way in options.ways]
        heading = f"round {number + 1} of {options.rounds}"
        for found, folder in _measured(heading, jobs, scratch / str(number), together=options.together):
            for cell, measurement in zip(workloads, found, strict=True):
                pictures = np.load(pictures_file(folder, cell))
                expected, dtype = references.setdefault(cell, (pictures, measurement.dtype))
                measurements.append(check_pictures(measurement, pictures, expected, dtype))
    return Record(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=git_commit(),
        machine=describe_machine(),
        options=options,
        rates=rates,
        solo=solo,
        control_psnr=max(control(pictures) for pictures, _ in references.values()),
        measurements=tuple(measurements),
    )


def _solo_latencies(options: Options, files: dict[str, str], scratch: Path) -> dict[SettingsKind, tuple[float, ...]]:
    """What each of the Poisson workloads' requests takes the script alone, in seconds, in their order."""
    closed = tuple(Cell(settings=settings, mode="poisson", clients=1) for settings in options.settings)
    job = Job(way="script", options=options, cells=closed, **files)
    ((found, _),) = _measured("what it can do", [job], scratch / "solo")
    return {measurement.settings: measurement.latencies for measurement in found}


def _cell(options: Options, settings: SettingsKind, mode: Mode, rates: dict[SettingsKind, float]) -> Cell:
    arrivals = poisson_arrivals(options, rates[settings]) if mode == "poisson" else None
    return Cell(settings=settings, mode=mode, clients=options.clients, arrivals=arrivals)


def _measured(
    heading: str, jobs: list[Job], scratch: Path, *, together: bool = False
) -> Iterator[tuple[list[Measurement], Path]]:
    """What came of each job, and the folder of its pictures. `together` opens all before the first is measured."""
    with ExitStack() as stack:

        def start(job: Job) -> WayProcess:
            process = WayProcess(job, scratch / job.way)
            stack.callback(process.stop)
            return process

        opened = {job.way: start(job) for job in jobs} if together else {}
        for process in opened.values():  # nobody is measured while others compile
            process.wait_until_ready_or_over()
        for job in jobs:
            console.print(f"{heading}: {job.way}")
            process = opened.get(job.way) or start(job)
            try:
                found = process.measure()
            except WayFailed as error:
                if job.way == "script":
                    raise
                console.print(str(error), style="red", markup=False)
                continue
            yield found, process.folder


def show(record: Record) -> None:
    """Print a table for each workload."""
    for settings, mode in cells(record):
        all_rows = rows(record, settings, mode)
        table = Table(*HEADERS, title=title(record, settings, mode))
        for row in all_rows:
            table.add_row(*cell_texts(row, all_rows))
        console.print(table)
        for note in notes(all_rows):
            console.print(note)


def save(record: Record, folder: Path) -> None:
    """Write the record as JSON and as a plot."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in record.date[:19] if character.isalnum())
    target = folder / f"{Path(record.options.arch).name}-{record.options.device}-{stamp}.json"
    target.write_text(record.model_dump_json(indent=1))
    draw(record, target.with_suffix(".png"))
    console.print(f"wrote {target} and its plot")


if __name__ == "__main__":
    typer.run(main)
