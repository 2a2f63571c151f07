"""The records of benchmarks/results: what every record says, and which records are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.machine import Machine, describe_machine, git_commit
from deployments.config import REPO_ROOT, Strict

RESULTS = REPO_ROOT / "benchmarks" / "results"
CACHE = REPO_ROOT / "benchmarks" / ".cache"
LEAST_ROUNDS, LEAST_IMAGES = 3, 10
OutputDir = Annotated[Path, typer.Option(help="Folder that the record is written to.")]
Scratch = Annotated[bool, typer.Option("--scratch", help="Print only; write no record. Works from a dirty tree.")]
console = Console(width=max(Console().width, 140), highlight=False)


class PublishedRecord(Strict):
    """Date (ISO 8601), commit, machine and command line of a measurement; subclasses add its values."""

    date: str
    commit: str
    machine: Machine
    command: str


def provenance(command: str) -> dict[str, Any]:
    """The fields of PublishedRecord, as of now."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "commit": git_commit(), "machine": describe_machine(), "command": command}


def refuse_dirty_tree(output_dir: Path, *, scratch: bool = False) -> None:
    """Raise typer.BadParameter if a record of uncommitted code would go to RESULTS. Call it before measuring."""
    if scratch or not _is_published(output_dir):
        return
    commit = git_commit()
    if commit == "unknown" or commit.endswith("changes"):
        raise typer.BadParameter(
            f"benchmarks/results holds records of committed code only, and this is {commit}. "
            "Commit first, or give --scratch, or an --output-dir outside benchmarks/results"
        )


def write_record(
    record: PublishedRecord,
    name: str,
    output_dir: Path,
    *,
    scratch: bool = False,
    rounds: int = LEAST_ROUNDS,
    images: int = LEAST_IMAGES,
) -> None:
    """Write the record as `name`.json and say so, or say why not: RESULTS takes no small samples.

    `images` counts the images of each cell in each round.
    """
    if scratch:
        return
    if _is_published(output_dir) and (rounds < LEAST_ROUNDS or images < LEAST_IMAGES):
        small = f"{rounds} rounds of {images} images are too few for benchmarks/results"
        console.print(f"no record written: {small} (least: {LEAST_ROUNDS} rounds of {LEAST_IMAGES} images)")
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / f"{name}.json"
    target.write_text(record.model_dump_json(indent=1) + "\n")
    console.print(f"wrote {target}")


def _is_published(output_dir: Path) -> bool:
    return output_dir.resolve().is_relative_to(RESULTS)
