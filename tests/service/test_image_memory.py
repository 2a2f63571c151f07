"""The memory of large images, when they are read and gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

THREADS = 4
SIDE = 4000
PROGRAM = f"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import numpy as np
from deployments.config import Limits
from deployments.images import flow
from deployments.images.memory import return_large_buffers
from tests.support.images import file_of
from tests.support.service import resident_mib

file = file_of(np.full(({SIDE}, {SIDE}, 3), 90, np.uint8), "jpeg")
if sys.argv[1] == "returned":
    return_large_buffers()
all_threads = Barrier({THREADS})

def read(number):
    flow.decode(file, Limits())
    all_threads.wait()

before = resident_mib(os.getpid())
with ThreadPoolExecutor({THREADS}) as threads:
    list(threads.map(read, range(2 * {THREADS})))
    print(resident_mib(os.getpid()) - before)
"""


def growth(way: str) -> float:
    """MiB that a process has more after it has read large images in several threads."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], check=True, capture_output=True, text=True)
    return float(done.stdout)


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_large_images_goes_back_to_the_system() -> None:
    pixels = SIDE * SIDE * 3 / 2**20
    assert growth("returned") < pixels < growth("kept")
