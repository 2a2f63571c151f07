"""Measures everything worth asking of a GPU that is at hand for a quarter of an hour, cheapest first.

python -m benchmarks.gpu_round --minutes 12 [--plan]

Each item runs in a process of its own, is stopped when it takes too long, and leaves a line in gpu-round.jsonl at
once; gpu-round.json has all of them at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import psutil  # type: ignore[import-untyped]
import typer

from benchmarks.gpu_round.plan import LEAST_IMAGES, REPEATS, Item, chosen, limit_s, reason_to_skip
from benchmarks.gpu_round.records import ItemResult, RoundRecord
from benchmarks.gpu_round.run_item import FIGURES
from benchmarks.publishing import RESULTS, OutputDir, Scratch, console, is_published, provenance, write_record
from deployments.config import REPO_ROOT

NAME = "gpu-round"
SHOWN_CHARS = 1500  # the end of a failing item's output


def main(
    minutes: Annotated[float, typer.Option(help="Time for all items together.")] = 12.0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the items and their estimated seconds; run none.")
    ] = False,
    items: Annotated[str, typer.Option(help="Comma-separated names; all: every item.")] = "all",
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="cpu tries the items with tiny models.")] = "cuda",
    commit: Annotated[str | None, typer.Option(help="Commit to record where there is no .git.")] = None,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Run the items that the time allows. Exit code 1: an item failed.

    benchmarks/results takes rounds of all items on CUDA only; a trial there prints and writes nothing.
    """
    try:
        todo = chosen(items)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--items") from error
    if plan:
        show_plan(todo, 60 * minutes)
        return
    if is_published(output_dir) and (device, items) != ("cuda", "all"):
        console.print("no record will be written: benchmarks/results takes rounds of all items on CUDA only")
        scratch = True
    command = f"python -m benchmarks.gpu_round --minutes {minutes:g} --items {items} --device {device}"
    facts = provenance(command, output_dir, scratch=scratch, commit=commit)
    deadline, results = time.monotonic() + 60 * minutes, list[ItemResult]()
    with _lines(output_dir, scratch=scratch) as write_line:
        for item in todo:
            results.append(run(item, device, deadline - time.monotonic()))
            write_line(results[-1].model_dump_json())
            show(results[-1])
    record = RoundRecord(**facts, device=device, minutes=minutes, items=tuple(results))
    write_record(record, NAME, output_dir, scratch=scratch, rounds=REPEATS, images=LEAST_IMAGES)
    if any(result.reason.startswith("failed") for result in results):
        raise typer.Exit(1)


@contextmanager
def _lines(output_dir: Path, *, scratch: bool) -> Iterator[Callable[[str], None]]:
    """Writes a line to gpu-round.jsonl at once; nowhere for a scratch measurement."""
    if scratch:
        yield lambda line: None
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / f"{NAME}.jsonl").open("w") as file:
        yield lambda line: print(line, file=file, flush=True)


def show_plan(todo: list[Item], left_s: float) -> None:
    """Print each item with its estimate, and whether all before it leave time for it."""
    for item in todo:
        fits = item.estimate_s <= left_s
        left_s -= item.estimate_s if fits else 0
        console.print(f"{item.name:15} {item.estimate_s:4.0f} s  {'runs ' if fits else 'skips'}  {item.question}")
    console.print(f"{left_s:.0f} s left; an item is stopped after twice its estimate")


def run(item: Item, device: str, left_s: float) -> ItemResult:
    """Run an item in a process of its own, or say why not."""
    if reason := reason_to_skip(item, device, left_s):
        return ItemResult(name=item.name, reason=f"skipped: {reason}")
    started, limit = time.monotonic(), limit_s(item, device, left_s)
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "figures.json", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "benchmarks.gpu_round.run_item", item.name, device, str(file)]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=REPO_ROOT, stdout=output, stderr=output)
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_with_descendants(process)
        reason = {0: "", None: f"stopped after {limit:.0f} s"}.get(code, f"failed with exit code {code}")
        figures = FIGURES.validate_json(file.read_bytes()) if file.exists() else {}
        shown = log.read_text()[-SHOWN_CHARS:] if code else ""
    seconds = round(time.monotonic() - started, 1)
    return ItemResult(name=item.name, seconds=seconds, reason=reason, output=shown, figures=figures)


def _kill_with_descendants(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that descend from it, if it has not ended."""
    with suppress(psutil.NoSuchProcess):
        for descendant in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
    process.kill()
    process.wait()


def show(result: ItemResult) -> None:
    """Print an item's figures, its reason and the end of a failed one's output."""
    console.print(f"{result.name}, {result.seconds:.0f} s {result.reason}", markup=False)
    if result.output:
        console.print(result.output, markup=False)
    for name, text in result.texts().items():
        console.print(f"  {name}: {text}", markup=False)


if __name__ == "__main__":
    typer.run(main)
