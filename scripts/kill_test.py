"""Kills folder jobs at random moments, runs them again, and compares the results with those of an undisturbed run.

    python -m scripts.kill_test --trials 60

Each trial makes 60 small images with the embedded checkpoint in reproducible mode, and kills one of: the job's own
process, a model's replica, a worker of Ray Data, or every process of Ray. In the end the images must have the bytes of
the undisturbed run, no recorded image may be made again, and no partial file may be left.
Exit codes: 0 all trials passed, 1 a trial failed.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.machine import describe_machine, git_commit
from scripts.killable_job import CONSOLE, KINDS, JobSetup, job_setup

MAX_RUNS = 4  # of one trial; one that still fails has another cause
OURS = ("results.jsonl", "results.parquet", "report.html", "contact_sheet.png", "report_files", "job.json")


@dataclass(frozen=True, slots=True)
class Trial:
    """What was killed, the number of images recorded by then, the number of runs, and the fault, "" if there is none.

    `own_cluster`: the job started Ray itself, so that both die together; else it joined a running app.
    """

    killed: str
    own_cluster: bool
    recorded: int
    runs: int
    wrong: str


def undisturbed(setup: JobSetup) -> dict[str, bytes]:
    """The images of a run without a kill."""
    output = setup.folder / "undisturbed"
    if setup.start(output, own_cluster=False).finish() != 0:
        raise RuntimeError((setup.folder / "log.txt").read_text())
    return images_in(output)


def images_in(output: Path) -> dict[str, bytes]:
    """Every file of an output folder, hidden ones too, except the record and the report."""
    names = {path.relative_to(output): path for path in output.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in names.items() if name.parts[0] not in OURS}


def recorded(output: Path) -> dict[str, str]:
    """The time of each finished image that has a complete line in the record."""
    with suppress(FileNotFoundError):
        lines = (output / "results.jsonl").read_bytes().split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines]
        return {row["output"]: row["finished_at"] for row in rows if row["error_type"] is None}
    return {}


def run_trial(setup: JobSetup, number: int, expected: dict[str, bytes]) -> Trial:
    """Start the job, kill a process, and run the job again until it is done. `number` decides the kind and moment.

    The moment is drawn as a number of finished images, so that it does not depend on the speed of the machine. The next
    runs join the running app, which takes half a minute less than to start one.
    """
    rng = random.Random(f"kill {number}")
    kind = KINDS[number % len(KINDS)]
    own_cluster = kind == "ray" or (kind == "driver" and number % (4 * len(KINDS)) == len(KINDS))
    count, delay_s = rng.randrange(setup.num_images), rng.uniform(0, 0.5)
    output = setup.folder / f"out{number}"
    kill_at: list[float] = []

    def is_time() -> bool:
        if not kill_at and len(recorded(output)) >= count:
            kill_at.append(time.monotonic() + delay_s)
        return bool(kill_at) and time.monotonic() >= kill_at[0]

    run = setup.start(output, own_cluster=own_cluster)
    was_killed = run.kill_when(is_time, kind)
    before = recorded(output)
    runs, code = 1, run.finish()
    while code != 0 and runs < MAX_RUNS:
        runs, code = runs + 1, setup.start(output, own_cluster=False).finish()
    wrong = fault(output, code, before, expected) if was_killed else "the job ended before it could be killed"
    return Trial(kind, own_cluster, len(before), runs, wrong)


def fault(output: Path, code: int, before: dict[str, str], expected: dict[str, bytes]) -> str:
    """The fault of a finished trial as a message, "" if there is none."""
    if code != 0:
        return f"the last run ended with exit code {code}"
    images, after = images_in(output), recorded(output)
    if set(images) != set(expected):
        return f"other files: {sorted(set(images) ^ set(expected))[:3]}"
    different = [name for name, data in images.items() if data != expected[name]]
    if different:
        return f"{len(different)} images differ, such as {different[0]}"
    again = [name for name, when in before.items() if after.get(name) != when]
    return f"{len(again)} recorded images were made again" if again else ""


def main(
    trials: Annotated[int, typer.Option(min=1)] = 60,
    first: Annotated[int, typer.Option(min=0, help="The number of the first trial.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A .json file for the results.")] = None,
) -> None:
    """Run the trials and print the outcome of each."""
    results: list[Trial] = []
    with job_setup() as setup:
        expected = undisturbed(setup)
        for number in range(first, first + trials):
            results.append(it := run_trial(setup, number, expected))
            where = "its own cluster" if it.own_cluster else "a running app"
            event = f"{it.killed} killed after {it.recorded} images, in {where}"
            CONSOLE.print(f"{number}: {event}: {it.runs} runs, {it.wrong or 'passed'}")
            if out is not None:
                write_results(results, out)
    CONSOLE.print(table_of(results))
    raise typer.Exit(int(any(result.wrong for result in results)))


def write_results(results: Sequence[Trial], out: Path) -> None:
    """Write the trials with their date, machine and commit."""
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    machine, trials = describe_machine().model_dump(), [asdict(result) for result in results]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "machine": machine, "trials": trials}, indent=1))


def table_of(results: Sequence[Trial]) -> Table:
    """The number of passed trials of each kind, and of their runs."""
    table = Table("killed", "trials", "passed", "runs: trials")
    for kind in KINDS:
        members = [result for result in results if result.killed == kind]
        runs = ", ".join(f"{n}: {count}" for n, count in sorted(Counter(it.runs for it in members).items()))
        table.add_row(kind, str(len(members)), str(sum(not result.wrong for result in members)), runs)
    return table


if __name__ == "__main__":
    typer.run(main)
