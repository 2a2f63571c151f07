"""Starts two folder jobs on one output, a second apart, again and again, and compares the results with one job's.

    python -m scripts.two_jobs_test --rounds 20

Of each pair one must make all images, and the other must exit with 2 and name the first one's process. In every other
round the second job has --overwrite. Afterwards a third job must find nothing to do.
Exit codes: 0 all rounds passed, 1 a round failed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from scripts.kill_test import fault, images_in, undisturbed
from scripts.killable_job import CONSOLE, JobSetup, job_setup

APART_S = 1.0
NUM_IMAGES = 24


def run_round(setup: JobSetup, number: int, expected: dict[str, bytes]) -> str:
    """The fault of a round as a message, "" if there is none."""
    output = setup.folder / f"out{number}"
    logs = [setup.folder / f"job{number}-{place}.txt" for place in range(2)]
    first = setup.start(output, log=logs[0].name)
    time.sleep(APART_S)
    second = setup.start(output, *(["--overwrite"] if number % 2 else []), log=logs[1].name)
    codes = [first.finish(), second.finish()]
    if sorted(codes) != [0, 2]:
        return f"exit codes {codes}: {texts_in(logs)}"
    winner = (first, second)[codes.index(0)].job.pid
    refusal = logs[codes.index(2)].read_text()
    if f"process {winner} on" not in " ".join(refusal.replace("│", " ").split()):
        return f"the refusal does not name process {winner}: {refusal}"
    return wrong_lines(output, expected) or third_job(setup, output, expected)


def wrong_lines(output: Path, expected: dict[str, bytes]) -> str:
    """The fault of results.jsonl, which needs one line for each image."""
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    counts = Counter(line["output"] for line in lines if line["error_type"] is None)
    return "" if counts == dict.fromkeys(expected, 1) else f"{len(lines)} lines for {len(expected)} images"


def third_job(setup: JobSetup, output: Path, expected: dict[str, bytes]) -> str:
    """The fault after one more run of the job, which must make nothing again."""
    before = {path: (output / path).stat().st_mtime_ns for path in images_in(output)}
    code = setup.start(output).finish()
    after = {path: (output / path).stat().st_mtime_ns for path in images_in(output)}
    return fault(output, code, {}, expected) or ("" if before == after else "the third job made images again")


def texts_in(logs: list[Path]) -> str:
    return " | ".join(log.read_text()[-500:] for log in logs)


def main(rounds: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """Run the rounds and print the outcome of each."""
    num_failed = 0
    with job_setup(NUM_IMAGES) as setup:
        expected = undisturbed(setup)
        for number in range(rounds):
            started = time.monotonic()
            wrong = run_round(setup, number, expected)
            num_failed += bool(wrong)
            CONSOLE.print(f"{number}: {wrong or 'passed'} ({time.monotonic() - started:.1f} s)")
    CONSOLE.print(f"{rounds - num_failed} of {rounds} rounds passed")
    raise typer.Exit(int(num_failed > 0))


if __name__ == "__main__":
    typer.run(main)
