"""The records of benchmarks/results: what every record says, and which records are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.machine import UNKNOWN, Machine, describe_machine, git_commit
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


def provenance(command: str, output_dir: Path, *, scratch: bool = False, commit: str | None = None) -> dict[str, Any]:
    """The fields of PublishedRecord, as of now: call it before measuring. `commit` stands in where git knows none.

    Raises typer.BadParameter if a record of uncommitted code would go to RESULTS.
    """
    known = git_commit()
    commit = commit if commit and known == UNKNOWN else known
    if not scratch and is_published(output_dir) and (commit == UNKNOWN or commit.endswith("changes")):
        raise typer.BadParameter(
            f"benchmarks/results holds records of committed code only, and this is {commit}. "
            "Commit first, or give --scratch, or an output outside benchmarks/results"
        )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "commit": commit, "machine": describe_machine(), "command": command}


def write_record(
    record: PublishedRecord,
    name: str,
    output_dir: Path,
    *,
    rounds: int | None,
    images: int | None,
    scratch: bool = False,
) -> bool:
    """Write the record as `name`.json and say so, or say why not. Returns whether it is written.

    RESULTS takes no small samples, and no record of another commit than the one that is checked out now. `images`
    counts the images of each cell in each round. None exempts: a start makes no image, and a deterministic
    measurement needs no second round.
    """
    if scratch:
        return False
    refusal = _refusal(record.commit, rounds, images) if is_published(output_dir) else ""
    if refusal:
        console.print(f"no record written: {refusal}")
        return False
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / f"{name}.json"
    target.write_text(record.model_dump_json(indent=1) + "\n")
    console.print(f"wrote {target}")
    return True


def _refusal(commit: str, rounds: int | None, images: int | None) -> str:
    """Why RESULTS does not take a record; "" if it does."""
    if rounds is not None and rounds < LEAST_ROUNDS:
        return f"{rounds} rounds are too few for benchmarks/results, which takes {LEAST_ROUNDS} and more"
    if images is not None and images < LEAST_IMAGES:
        return f"{images} images a round are too few for benchmarks/results, which takes {LEAST_IMAGES} and more"
    now = git_commit()
    return f"{commit} was measured, and this is {now}" if now not in (commit, UNKNOWN) else ""


def is_published(output_dir: Path) -> bool:
    """Whether a record there would be on the page."""
    return output_dir.resolve().is_relative_to(RESULTS)
