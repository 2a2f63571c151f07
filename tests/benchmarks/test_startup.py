"""`benchmarks.service.startup`, on its empty application."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.service

MEASURE = "from benchmarks.service.startup import EMPTY, answers, start; print(start(EMPTY, answers))"


def test_measurement_ends_where_interrupts_are_ignored():
    def as_a_job_in_the_background() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    measured = subprocess.run(
        [sys.executable, "-c", MEASURE],
        preexec_fn=as_a_job_in_the_background,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert measured.returncode == 0, measured.stderr
    assert float(measured.stdout) > 0
