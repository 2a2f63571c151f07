"""The hash of a local checkpoint changes when its files change, and only then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.planning.checkpoint_hash import checkpoint_hash, with_checkpoint_hashes
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
def test_checkpoint_that_is_changed_in_place_has_another_hash(checkpoint: Path, change: Callable[[Path], None]):
    before = checkpoint_hash(checkpoint)
    change(checkpoint)
    assert None is not checkpoint_hash(checkpoint) != before


def test_copy_elsewhere_with_other_times_and_notes_has_the_same_hash(checkpoint: Path, tmp_path: Path):
    other = Path(shutil.copytree(checkpoint, tmp_path / "elsewhere"))
    os.utime(other / WEIGHTS, (1, 1))
    (other / "README.md").write_text("A model.")
    assert checkpoint_hash(other) == checkpoint_hash(checkpoint)


def test_file_counts_with_the_folder_beside_it(checkpoint: Path):
    file = Path(shutil.copy(checkpoint / WEIGHTS, checkpoint.with_name("tiny.safetensors")))
    hashes = [checkpoint_hash(file)]
    for change in (change_the_scheduler, lambda folder: flip_byte(file, 5000), shutil.rmtree):
        change(checkpoint)
        hashes.append(checkpoint_hash(file))
    assert None not in hashes
    assert len(set(hashes)) == 4


def bytes_read() -> int:
    """By this process, until now."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_four_gigabytes_are_seen_by_reading_sixteen_megabytes(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    os.truncate(weights, 4 * 1024**3)
    before_bytes = bytes_read()
    before = checkpoint_hash(weights)
    assert 16 * 1024**2 <= bytes_read() - before_bytes < 17 * 1024**2
    flip_byte(weights, 4 * 1024**3 - 1)
    assert checkpoint_hash(weights) != before


@pytest.mark.parametrize("name", ["none", "org/name", "nowhere.safetensors"])
def test_what_is_not_here_has_no_hash(name: str):
    config = with_checkpoint_hashes(AppConfig(models={"one": {"checkpoint": name}}))
    assert config.models["one"].revision is None


def test_revision_of_a_hub_id_is_kept():
    config = with_checkpoint_hashes(AppConfig(models={"one": {"checkpoint": "org/name", "revision": "abc"}}))
    assert config.models["one"].revision == "abc"
