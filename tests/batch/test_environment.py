"""The commands in the environments that people run them in, as processes that join the running app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from deployments.config import REPO_ROOT

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]

# What docs/operations.md says to export, where it concerns a program that calls the app.
FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, joining the running app. Its output is one text."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, **environment},
        cwd=REPO_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def test_folder_job_runs_in_the_shell_of_a_fast_server_behind_a_proxy(photo: Path, tmp_path: Path):
    done = run("batch.run_folder", "--input", photo.parent, "--output", tmp_path / "out", **FAST, **DEAD_PROXY)
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "out").glob("photo*.png"))) == 1


def test_one_image_is_made_in_the_shell_of_a_fast_server_behind_a_proxy(photo: Path, tmp_path: Path):
    done = run("batch.run_image", photo, "--output", tmp_path / "out", **FAST, **DEAD_PROXY)
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "out").glob("photo*.png"))) == 1


def test_cluster_that_refuses_the_token_is_named_with_what_to_do(photo: Path):
    done = run("batch.run_image", photo, RAY_AUTH_TOKEN="0" * 64, COLUMNS="1000")
    assert done.returncode == 2
    assert "RAY_ADDRESS" in done.stdout
    assert "Authentication token is missing or incorrect" in done.stdout
    assert "RAY_ADDRESS=local" in done.stdout
