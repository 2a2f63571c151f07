"""The engine and the app work where `deployments.engine.accel` cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from benchmarks.service.startup import start
from tests.support.reference import smooth_image
from tests.support.service import pixels_of, png

pytestmark = pytest.mark.subprocess
ROOT = Path(__file__).parents[2]
BLOCK = "import sys; sys.modules['deployments.engine.accel'] = None\n"


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


@pytest.mark.service
def test_the_app_serves_without_accelerators(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)  # every process of Ray imports it first
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    model = {"checkpoint": str(checkpoints("sd15")), "defaults": {"num_inference_steps": 4}}
    app = {"name": "img2img", "import_path": "deployments.app:build_app", "args": {"models": {"sd15": model}}}
    found: list[tuple[str, bool]] = []

    def has_made_an_image(client: httpx.Client) -> bool:
        (card,) = client.get("/v1/models").raise_for_status().json()["data"]
        if not card["ready"]:
            return False
        reply = client.post("/v1/img2img", files={"image": png(smooth_image(1, 64, 64))}, timeout=60)
        found.append((card["form"], card["compiling"]))
        return pixels_of(reply.raise_for_status().content).shape == (64, 64, 3)

    start({"applications": [app]}, has_made_an_image)
    assert found == [("eager", False)]
