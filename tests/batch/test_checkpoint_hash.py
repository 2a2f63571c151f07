"""A checkpoint of this machine gets another revision when its files change, and only then."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.planning.checkpoint_hash import local_revision, with_revisions
from deployments.config import AppConfig

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path, checkpoints: Callable[[str], Path]) -> Path:
    """A tiny checkpoint's folder, to be changed."""
    return Path(shutil.copytree(checkpoints("sd15"), tmp_path / "tiny"))


def flip_byte(file: Path, position: int) -> None:
    with file.open("r+b") as content:
        content.seek(position)
        (value,) = content.read(1)
        content.seek(position)
        content.write(bytes([value ^ 1]))


def change_a_weight(folder: Path) -> None:
    flip_byte(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def change_the_last_weight(folder: Path) -> None:
    flip_byte(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)


def change_the_scheduler(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("scaled_linear", "linear"))


def remove_a_file(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer_config.json").unlink()


@pytest.mark.parametrize("change", [change_a_weight, change_the_last_weight, change_the_scheduler, remove_a_file])
def test_checkpoint_that_is_changed_in_place_has_another_revision(checkpoint: Path, change: Callable[[Path], None]):
    before = local_revision(checkpoint)
    change(checkpoint)
    assert None is not local_revision(checkpoint) != before


def test_copy_elsewhere_with_other_times_and_notes_has_the_same_revision(checkpoint: Path, tmp_path: Path):
    other = Path(shutil.copytree(checkpoint, tmp_path / "elsewhere"))
    os.utime(other / WEIGHTS, (1, 1))
    (other / "README.md").write_text("A model.")
    assert local_revision(other) == local_revision(checkpoint)


def test_file_counts_with_the_folder_beside_it(checkpoint: Path):
    file = Path(shutil.copy(checkpoint / WEIGHTS, checkpoint.with_name("tiny.safetensors")))
    revisions = [local_revision(file)]
    for change in (change_the_scheduler, lambda folder: flip_byte(file, 5000), shutil.rmtree):
        change(checkpoint)
        revisions.append(local_revision(file))
    assert None not in revisions
    assert len(set(revisions)) == 4


def test_four_gigabytes_are_seen_in_seconds(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    os.truncate(weights, 4 * 1024**3)
    started = time.monotonic()
    before = local_revision(weights)
    assert time.monotonic() - started < 5
    flip_byte(weights, 4 * 1024**3 - 1)
    assert local_revision(weights) != before


@pytest.mark.parametrize("name", ["none", "org/name", "nowhere.safetensors"])
def test_what_is_not_here_has_no_revision(name: str):
    config = with_revisions(AppConfig(models={"one": {"checkpoint": name}}))
    assert config.models["one"].revision is None


def test_revision_of_a_hub_id_stays():
    config = with_revisions(AppConfig(models={"one": {"checkpoint": "org/name", "revision": "abc"}}))
    assert config.models["one"].revision == "abc"
