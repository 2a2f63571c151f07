"""A process that runs a model is prepared before torch is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
REPORT = """
import os
from deployments.replica.process_env import prepare_for_torch
prepare_for_torch()
import torch
memory = torch.ones(16 * 2**20)
ask_for_large_pages = [line for line in open("/proc/self/smaps") if line.startswith("VmFlags") and " hg" in line]
print(len(ask_for_large_pages), os.environ.get("OMP_WAIT_POLICY"))
"""


def report(**environment: str) -> list[str]:
    """Mappings with large pages after 64 MB of floats, and how OpenMP's threads wait."""
    names = {"THP_MEM_ALLOC_ENABLE", "OMP_WAIT_POLICY"}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", REPORT]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=inherited | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.subprocess
@pytest.mark.skipif(not PAGES.exists(), reason="this kernel has no transparent large pages")
def test_torch_asks_for_large_pages_unless_told_otherwise() -> None:
    assert report()[0] == "1"
    assert report(THP_MEM_ALLOC_ENABLE="0")[0] == "0"


@pytest.mark.subprocess
def test_waiting_threads_sleep_unless_told_otherwise() -> None:
    assert report()[1] == "PASSIVE"
    assert report(OMP_WAIT_POLICY="ACTIVE")[1] == "ACTIVE"
