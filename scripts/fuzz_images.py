"""Reads damaged image files of every format, each in a process of its own with bounded time and memory.

    python -m scripts.fuzz_images --count 10000 --seed 1

A file must be decoded, or refused with an ImageError. Prints how many were, the worst time and the worst memory.
Exit codes: 0 every file was, 1 a file had another end.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.table import Table

from deployments.images.codec import ImageError, decode_image
from deployments.images.metadata import read_parameters
from scripts.fuzzed_images import damaged, originals

Outcome = Literal["decoded", "refused", "exception", "out of memory", "timeout", "crash"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
GOOD: tuple[Outcome, ...] = ("decoded", "refused")
MAX_BYTES, MAX_PIXELS = 32 * 1024**2, 16_000_000
TIME_S = 10
MEMORY_BYTES = 1024**3  # beyond what the process has at its start
CONSOLE = Console(highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Tally:
    """The ends of files of one format, the longest processor time in seconds, and the most memory in MiB."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    worst_s: float = 0.0
    worst_mib: float = 0.0


def read(data: bytes) -> Outcome:
    """Decode a file and read its settings. Raises what the code that is tested should not raise."""
    try:
        read_parameters(data)
        decode_image(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    except ImageError as error:
        return "out of memory" if isinstance(error.__cause__, MemoryError) else "refused"
    return "decoded"


def read_apart(data: bytes) -> tuple[Outcome, float, float]:
    """`read` in a child process, with its seconds of processor time and its peak of memory in MiB."""
    child = os.fork()
    if child == 0:
        _limit_and_exit(data)
    _, status, usage = os.wait4(child, 0)
    seconds, mib = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) < len(OUTCOMES):
        return OUTCOMES[os.WEXITSTATUS(status)], seconds, mib
    return "timeout" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else "crash", seconds, mib


def _limit_and_exit(data: bytes) -> None:
    outcome: Outcome = "exception"
    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's complaints
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIME_S)
        outcome = read(data)
    except MemoryError:
        outcome = "out of memory"
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(OUTCOMES.index(outcome))


def main(
    count: Annotated[int, typer.Option(min=1, help="How many files.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Other numbers, other damage.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="A folder for the files that had another end.")] = None,
) -> None:
    """Read damaged files, and print their ends."""
    started = time.monotonic()
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    warnings.simplefilter("ignore")
    gc.freeze()
    for number, (name, data) in enumerate(damaged(originals(), count, seed)):
        outcome, seconds, mib = read_apart(data)
        tally = tallies[name.split()[0]]
        tally.outcomes[outcome] += 1
        tally.worst_s, tally.worst_mib = max(tally.worst_s, seconds), max(tally.worst_mib, mib)
        if outcome not in GOOD:
            CONSOLE.print(f"{outcome}: file {number}, {name}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number} {name}").write_bytes(data)
    CONSOLE.print(_table(tallies))
    CONSOLE.print(f"{count} files, seed {seed}, {time.monotonic() - started:.0f} s")
    raise typer.Exit(int(any(tally.outcomes.keys() - GOOD for tally in tallies.values())))


def _table(tallies: dict[str, Tally]) -> Table:
    table = Table("format", *OUTCOMES, "worst s", "worst MiB", box=None)
    for name, tally in tallies.items():
        counts = [str(tally.outcomes[outcome]) for outcome in OUTCOMES]
        table.add_row(name, *counts, f"{tally.worst_s:.2f}", f"{tally.worst_mib:.0f}")
    return table


if __name__ == "__main__":
    typer.run(main)
