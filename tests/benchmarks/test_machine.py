"""What a record says of the code that was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.machine import git_commit

pytestmark = pytest.mark.subprocess


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit of one file."""
    monkeypatch.setattr(machine, "REPO_ROOT", tmp_path)
    (tmp_path / "module.py").write_text("")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_commit_is_that_of_the_checkout_whatever_is_published_meanwhile(checkout: Path) -> None:
    (checkout / "benchmarks" / "results").mkdir(parents=True)
    (checkout / "benchmarks" / "results" / "x.json").write_text("{}")
    assert len(git_commit()) == 12


@pytest.mark.parametrize("name", ["module.py", "new.py"])
def test_a_changed_file_and_a_module_that_git_does_not_know_are_changes(checkout: Path, name: str) -> None:
    (checkout / name).write_text("x = 1\n")
    assert git_commit().endswith(" + changes")


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "REPO_ROOT", tmp_path)
    assert git_commit() == "unknown"
