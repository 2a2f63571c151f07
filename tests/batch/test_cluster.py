"""How the commands look for the app, and what they say where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

import pytest
import yaml

from batch import cluster as joining
from tests.support.folders import assert_refused
from tests.support.one_image import run_image, serve_config


@pytest.mark.parametrize(
    ("address", "words"), [("127.0.0.1:1", "refused"), ("[::1]:1", "127"), ("nowhere.invalid:1", ""), ("a:b", "")]
)
def test_address_without_a_cluster_is_named_at_once_with_the_way_out(
    photo: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert_refused(run_image(photo), "RAY_ADDRESS", f"'{address}'")
    assert_refused(run_image(photo), "RAY_ADDRESS", "RAY_ADDRESS=local starts the app in a cluster of its own")


@pytest.mark.service
def test_app_without_room_in_the_cluster_ends_the_command_with_what_is_lacking(
    cluster: None, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = yaml.safe_load(serve_config(tmp_path).read_text())
    config["applications"][0]["deployments"] = [{"name": "router", "ray_actor_options": {"num_cpus": 99}}]
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(joining, "START_TIMEOUT_S", 9.0)
    result = run_image(photo, "--config", tmp_path / "large.yaml")
    assert_refused(result, "--config", "not ready after 0.15 minutes: router: updating")


def test_slow_search_for_a_cluster_says_what_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joining, "ANNOUNCED_AFTER_S", 0.0)
    told: SimpleQueue[str] = SimpleQueue()
    with joining._announced("looking for the app", told.put):
        assert told.get(timeout=10) == "looking for the app"


@pytest.mark.service
def test_cluster_of_its_own_needs_no_home_folder():
    code = "from batch.cluster import _start_cluster as start; import ray; start(); print(ray.is_initialized())"
    environment = {**os.environ, "RAY_ADDRESS": "local", "HOME": "/dev/null"}
    environment.pop("RAY_AUTH_TOKEN", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
