"""What the folder job's command line refuses, and what it says then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.config import REPO_ROOT
from tests.support.folders import Folder, assert_refused, run_folder
from tests.support.images import gradient


@pytest.fixture
def source(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "photos"))
    folder.write("a.png", gradient())
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--strength", "1.5", "'1.5' is not a number from 0 to 1"),
        ("--num-inference-steps", "0", "a whole number from 1 to 1000"),
        ("--seeds", "0", "at least 1"),
        ("--output-format", "avif", "'webp'"),
        ("--concurrency", "0", "greater than or equal to 1"),
        ("--deadline", "-1", "greater than or equal to 0"),
        ("--prompts-file", "nowhere.txt", "nowhere.txt"),
    ],
)
def test_bad_option_is_named_with_what_is_allowed(
    source: Folder, output: Folder, option: str, value: str, allowed: str
):
    assert_refused(run_folder(source, output, option, value), option, allowed)


def test_two_ways_to_give_prompts_are_refused(source: Folder, output: Folder):
    assert_refused(run_folder(source, output, "--prompt", "a", "--prompts-file", "b"), "--prompts-file", "--prompt")


@pytest.mark.parametrize("name", ["photos", "photos/out", "photos/../photos/", "."])
def test_results_never_mix_with_sources(source: Folder, tmp_path: Path, name: str):
    assert_refused(run_folder(source, Folder(str(tmp_path / name))), "--output", "outside")
    assert len(list(tmp_path.rglob("*"))) == 2


def test_missing_input_folder_is_named(tmp_path: Path, output: Folder):
    assert_refused(run_folder(Folder(str(tmp_path / "nowhere")), output), "--input", "nowhere")


def test_output_that_is_a_file_is_refused(source: Folder, output: Folder, tmp_path: Path):
    (tmp_path / "out").touch()
    assert_refused(run_folder(source, output), "--output", "not a folder")


def test_output_of_an_unknown_kind_is_refused(source: Folder, output: Folder):
    output.uri = "nosuch://bucket/folder"
    assert_refused(run_folder(source, output), "--output", "nosuch")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("photos/*.jpg", "photos' matches '*.jpg'"),
        ("heic", "heic'; 1 other files ignored"),
        ("photos/list.txt", "photos'; 0 other files ignored"),
    ],
)
def test_input_without_images_is_refused_at_once(
    source: Folder, output: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, reason: str
):
    source.storage.write("../heic/a.xyz", b"")
    source.storage.write("list.txt", b"\n")
    monkeypatch.chdir(tmp_path)
    source.uri = pattern
    assert_refused(run_folder(source, output, "--config", tmp_path / "none.yaml"), "--input", reason)
    assert not (tmp_path / "out").exists()


@pytest.mark.subprocess
def test_a_cluster_of_its_own_waits_until_there_is_something_to_do():
    code = (
        "import ray\nfrom pathlib import Path\n"
        "from batch.cluster import find_app\n"
        f"with find_app(Path({str(REPO_ROOT / 'serve_config.yaml')!r}), 'img2img', print) as app:\n"
        "    print(*app.config.models, ray.is_initialized())\n"
    )
    command, environment = [sys.executable, "-c", code], {**os.environ, "RAY_ADDRESS": "local"}
    done = subprocess.run(command, env=environment, cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "tiny-sd15 tiny-sd21v False\n"
