"""What the service adds to the models' own time: latency and requests per second with models that do nothing.

python -m benchmarks.service.overhead
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.backends.serving import BEHIND_HAPROXY
from benchmarks.publishing import (
    RESULTS,
    OutputDir,
    PublishedRecord,
    Scratch,
    console,
    provenance,
    write_record,
)
from benchmarks.service.load import ALONE
from benchmarks.spread import Spread, spread
from deployments.config import REPO_ROOT

PROXIES: dict[str, dict[str, str]] = {"Serve's proxy": {}, "HAProxy": BEHIND_HAPROXY}


class OverheadRecord(PublishedRecord):
    """For each proxy, the figures of every start (`load.measure`)."""

    starts: dict[str, tuple[dict[str, float], ...]]

    def figure(self, proxy: str, name: str) -> Spread:
        """One figure over the starts; 0 where a start has no process of that name."""
        return spread(start.get(name, 0.0) for start in self.starts[proxy])


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each proxy, in turn.")] = 3,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Measure each proxy in turn, every start in a process of its own."""
    facts = provenance(f"python -m benchmarks.service.overhead --rounds {rounds}", output_dir, scratch=scratch)
    starts: dict[str, tuple[dict[str, float], ...]] = dict.fromkeys(PROXIES, ())
    for number in range(rounds):
        for proxy, environment in PROXIES.items():
            console.print(f"round {number + 1} of {rounds}: {proxy}")
            starts[proxy] += (_start(environment),)
    record = OverheadRecord(**facts, starts=starts)
    show(record)
    write_record(record, "service-overhead", output_dir, scratch=scratch, rounds=rounds, images=ALONE)


def _start(environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.service.load"]
    done = subprocess.run(command, cwd=REPO_ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the service failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def show(record: OverheadRecord) -> None:
    """Print every figure of each proxy."""
    table = Table("figure", *record.starts)
    names = dict.fromkeys(name for starts in record.starts.values() for start in starts for name in start)
    for name in names:
        table.add_row(name, *(str(record.figure(proxy, name)) for proxy in record.starts))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
