"""The engine and the service work where `deployments.engine.accel` cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess
ROOT = Path(__file__).parents[2]
BLOCK = "import sys; sys.modules['deployments.engine.accel'] = None; "


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_fast_tests_of_the_engine_pass_without_accelerators() -> None:
    code = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-p", "no:cacheprovider", "--fast", "tests/engine"]
    deselected = ["--ignore=tests/engine/accel", "--ignore=tests/engine/test_without_accelerators.py"]
    output = run_python(code, *options, *deselected)
    assert " passed" in output.splitlines()[-1]
    assert "failed" not in output.splitlines()[-1]


def test_a_replica_is_built_and_makes_images_without_accelerators(checkpoints: Callable[[str], Path]) -> None:
    code = """
from deployments.config import ModelConfig
from deployments.engine.request import Img2ImgRequest
from deployments.replica.build import build_engine
import numpy as np

engine = build_engine(ModelConfig(checkpoint=sys.argv[1], device="cpu"))
engine.add([engine.runner.prepare(Img2ImgRequest("a", np.zeros((64, 64, 3), np.uint8), "a cat", strength=1.0))])
while engine.has_work:
    for request_id, result in engine.step():
        print(request_id, result.pixels.shape, engine.runner.backend)
"""
    assert run_python(code, str(checkpoints("sd15"))) == "a (64, 64, 3) eager\n"
