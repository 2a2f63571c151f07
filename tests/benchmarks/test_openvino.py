"""The conversion of checkpoints for OpenVINO GenAI."""

from __future__ import annotations

import subprocess
import sys

import pytest

CONVERSION_OBSERVED = """
import sys
import torch
import benchmarks.backends
watched = ("os.fork", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "urllib.Request")
sys.addaudithook(lambda event, _: print(event) if event in watched else None)
import openvino
openvino.convert_model(torch.nn.Linear(4, 4), example_input=torch.zeros(1, 4))
print("converted")
"""


@pytest.mark.subprocess
def test_conversion_tells_nobody() -> None:
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", CONVERSION_OBSERVED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["converted"]
