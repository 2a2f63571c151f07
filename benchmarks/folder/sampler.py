"""Samples a running folder job every two seconds: its progress, and the memory and CPU time of its processes."""

from __future__ import annotations

import os
import random
import subprocess
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from benchmarks.folder.bounds import CONSOLE
from benchmarks.folder.setup import MODEL, family, num_results

EVERY_S, REPORT_EVERY_S = 2.0, 30.0
MIB = 1024**2
YARDSTICK = random.Random(0).randbytes(500_000)  # to compress, which takes some 15 ms

# What is in the titles of the processes, once Ray has named them. The job's own process is the driver.
KINDS = {
    "workers": "ray::MapWorker",
    "tracker": "ray::Tracker",
    "replica": f"ServeReplica:img2img:{MODEL}",
    "router": "ServeReplica:img2img:router",
}


class Sample(NamedTuple):
    """A moment of the run: `uss_mib` and `cpu_s` (so far) by kind of process, `pss_mib` over all of them.

    `pace` is the speed of the machine's cores: how often in a second of processor time one does the same work.
    """

    second: float
    done: int
    uss_mib: dict[str, float]
    cpu_s: dict[str, float]
    pss_mib: float
    load_average: float
    pace: float


def sample_until_end(job: subprocess.Popen[bytes], output: Path) -> list[Sample]:
    """A sample every two seconds, until the job ends."""
    samples: list[Sample] = []
    started = reported = time.monotonic()
    while job.poll() is None:
        with suppress(psutil.NoSuchProcess):  # the job ended meanwhile
            samples.append(_sample(job, output, time.monotonic() - started))
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            CONSOLE.print(f"{samples[-1].done} done, load average {samples[-1].load_average:.1f}")
        time.sleep(EVERY_S - (time.monotonic() - started) % EVERY_S)
    return samples


def _sample(job: subprocess.Popen[bytes], output: Path, second: float) -> Sample:
    uss, cpu = defaultdict[str, float](float), defaultdict[str, float](float)
    pss, done = 0.0, num_results(output)
    for process in (psutil.Process(job.pid), *family(job)):
        with suppress(psutil.Error):  # it ended meanwhile
            kind = "driver" if process.pid == job.pid else kind_of(process.cmdline())
            memory, times = process.memory_full_info(), process.cpu_times()
            uss[kind] += memory.uss / MIB
            cpu[kind] += times.user + times.system
            pss += memory.pss / MIB
    return Sample(round(second, 2), done, _rounded(uss), _rounded(cpu), round(pss, 1), os.getloadavg()[0], _pace())


def _pace() -> float:
    started = time.thread_time()
    zlib.compress(YARDSTICK)
    return round(1 / (time.thread_time() - started), 2)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {kind: round(value, 2) for kind, value in figures.items()}


def kind_of(command: Sequence[str]) -> str:
    """Which of KINDS the process is, by its command line; "rest" for none."""
    title = " ".join(command)
    return next((kind for kind, mark in KINDS.items() if mark in title), "rest")
