"""Measures backends side by side, the same requests through each, and writes a record.

python -m benchmarks.compare --arch tiny --images 16 --rounds 3
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from pydantic import ValidationError

from benchmarks.architectures import checkpoint_for
from benchmarks.backends.registry import PackageMissing, check_installed
from benchmarks.backends.spec import BACKENDS, Backend
from benchmarks.compare.agreement import ImagesDiffer
from benchmarks.compare.comparison import compare
from benchmarks.compare.process import BackendFailed
from benchmarks.compare.records import Options
from benchmarks.compare.report import show
from benchmarks.publishing import CACHE, RESULTS, OutputDir, Scratch, console, provenance, write_record

ALL = ("all", "both")
DEFAULT_BACKENDS: tuple[Backend, ...] = Options.model_fields["backends"].default


def main(
    arch: Annotated[str, typer.Option(help="tiny (embedded), small, sd15, sd21, sdxl (random) or a folder.")] = "tiny",
    size: Annotated[int, typer.Option(help="Sides of the square images, in pixels.")] = 256,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Annotated[str, typer.Option(help="The engine's and the service's, as in the configuration.")] = "auto",
    reproducible: Annotated[bool, typer.Option(help="Run the engine and the service reproducibly.")] = False,
    max_rows: Annotated[int | None, typer.Option(help="Cap on rows of the engine's and service's steps.")] = None,
    backends: Annotated[
        str, typer.Option("--backends", "--ways", help=f"Of {', '.join(BACKENDS)}; all: {', '.join(DEFAULT_BACKENDS)}.")
    ] = "all",
    mode: Annotated[str, typer.Option(help="closed, poisson or both.")] = "both",
    settings: Annotated[str, typer.Option(help="uniform, mixed or both; guided, single, turbo.")] = "both",
    images: Annotated[int, typer.Option(help="Requests of each workload.")] = 16,
    rounds: Annotated[int, typer.Option(help="How often each backend runs each workload.")] = 3,
    clients: Annotated[int, typer.Option(help="Clients of the closed loop.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Largest batch of batch and diffusers_best.")] = 4,
    load: Annotated[float, typer.Option(help="Poisson arrivals, as a fraction of the script's capacity.")] = 0.8,
    max_steps: Annotated[int, typer.Option(help="Largest num_inference_steps of a request.")] = 30,
    together: Annotated[bool, typer.Option(help="Open all backends at once; each is still timed alone.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of images, settings and arrivals.")] = 0,
    cache_dir: Annotated[Path, typer.Option(help="Folder that keeps built checkpoints.")] = CACHE,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Compare backends. Exit code 1: a backend failed, or gave other images than the script."""
    values = {name: value for name, value in locals().items() if name in Options.model_fields and value is not None}
    options = _options(values)
    checkpoint = _checkpoint(options, cache_dir)
    facts = provenance(options.command, output_dir, scratch=scratch)
    with tempfile.TemporaryDirectory() as folder:
        try:
            record = compare(options, facts, checkpoint, cache_dir, Path(folder))
        except (ImagesDiffer, BackendFailed) as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(1) from error
    show(record)
    write_record(record, options.name, output_dir, scratch=scratch, rounds=rounds, images=images)
    if record.failed:
        raise typer.Exit(1)


def _checkpoint(options: Options, cache_dir: Path) -> Path:
    """The checkpoint to measure. Raises typer.BadParameter for one that there is not, or a backend that is not."""
    try:
        check_installed(options.backends)
        return checkpoint_for(options.arch, cache_dir)
    except PackageMissing as error:
        raise typer.BadParameter(str(error), param_hint="--backends") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--arch") from error


def _options(values: dict[str, Any]) -> Options:
    """The command line's words as checked options. Raises typer.BadParameter naming the option."""
    lists = {name: values.pop(name).split(",") for name in ("backends", "mode", "settings")}
    lists = {name: words for name, words in lists.items() if words[0] not in ALL}
    if values["device"] == "auto":
        values["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return Options(**{**values, **lists})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(first["msg"], param_hint="--" + str(first["loc"][0]).replace("_", "-")) from error


if __name__ == "__main__":
    typer.run(main)
