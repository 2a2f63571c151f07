"""The engine and the app work where `deployments.engine.accel` cannot be imported."""

from __future__ import annotations

import importlib
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

ROOT = Path(__file__).parents[2]
BLOCK = "import sys; sys.modules['deployments.engine.accel'] = None\n"


@pytest.mark.subprocess
def test_every_module_but_the_accelerators_is_imported_without_them() -> None:
    """In a fresh interpreter. That the other tests of the engine pass without accelerators, conftest.py sees to."""
    code = """
import importlib, pkgutil, deployments.engine, deployments.replica
for package in (deployments.engine, deployments.replica):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith("deployments.engine.accel"):
            importlib.import_module(module.name)
            print(module.name)
"""
    done = subprocess.run([sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"deployments.engine.models.stable_diffusion", "deployments.replica.build"} <= set(done.stdout.split())


def test_accelerators_cannot_be_imported_here() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("deployments.engine.accel.backends")


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
        if "form" not in card:  # a model that is ready may not have told what it is
            return False
        reply = client.post("/v1/img2img", files={"image": png(smooth_image(1, 64, 64))}, timeout=60)
        found.append((card["form"], card["compiling"]))
        return pixels_of(reply.raise_for_status().content).shape == (64, 64, 3)

    start({"applications": [app]}, has_made_an_image)
    assert found == [("eager", False)]
