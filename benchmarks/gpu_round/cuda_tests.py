"""The item that runs the tests which need a GPU."""

from __future__ import annotations

import re
import subprocess
import sys

from benchmarks.backends.spec import Device
from benchmarks.gpu_round.run_item import Found
from deployments.config import REPO_ROOT

TESTS = "tests/engine/accel/test_cuda.py"
PARITY_COUNT = 10  # random settings of each parity test
OUTCOMES = ("passed", "failed", "skipped", "error")


def run(device: Device) -> Found:
    """How many tests had which outcome. Raises RuntimeError if one failed; the output is printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", TESTS]
    done = subprocess.run(
        [*command, f"--parity-count={PARITY_COUNT}"], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout)
    yield from counts(done.stdout).items()
    if done.returncode:
        raise RuntimeError(f"{TESTS} ended with exit code {done.returncode}")


def counts(output: str) -> dict[str, tuple[float, ...]]:
    """The numbers of pytest's last line by outcome."""
    last = output.strip().splitlines()[-1] if output.strip() else ""
    found = re.findall(r"(\d+) (\w+)", last)
    return {f"tests {word.rstrip('s')}": (float(number),) for number, word in found if word.rstrip("s") in OUTCOMES}
