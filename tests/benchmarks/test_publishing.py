"""Which records are written, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from benchmarks import publishing
from benchmarks.publishing import PublishedRecord, provenance, refuse_dirty_tree, write_record
from benchmarks.service.startup import main as startup
from tests.benchmarks.commands import run, text_of


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(publishing, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("commit", ["0123456789ab + changes", "unknown"])
def test_uncommitted_code_is_not_published(results: Path, monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    monkeypatch.setattr(publishing, "git_commit", lambda: commit)
    with pytest.raises(typer.BadParameter, match=r"committed code only.*Commit first, or give --scratch"):
        refuse_dirty_tree(results)
    refuse_dirty_tree(results, scratch=True)
    refuse_dirty_tree(results.parent)


def test_committed_code_is_published(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "git_commit", lambda: "0123456789ab")
    refuse_dirty_tree(results / "below")
    write_record(PublishedRecord(**provenance("python -m x")), "x", results, rounds=3, images=10)
    assert PublishedRecord.model_validate_json((results / "x.json").read_text()).command == "python -m x"


@pytest.mark.subprocess
@pytest.mark.parametrize(("rounds", "images"), [(2, 10), (3, 9)])
def test_small_samples_are_written_elsewhere_only(
    results: Path, tmp_path_factory: pytest.TempPathFactory, rounds: int, images: int
) -> None:
    record, elsewhere = PublishedRecord(**provenance("")), tmp_path_factory.mktemp("elsewhere")
    write_record(record, "x", results, rounds=rounds, images=images)
    assert list(results.iterdir()) == []
    write_record(record, "x", elsewhere, rounds=rounds, images=images)
    assert [file.name for file in elsewhere.iterdir()] == ["x.json"]
    write_record(record, "y", elsewhere, scratch=True)
    assert not (elsewhere / "y.json").exists()


def test_a_command_refuses_a_dirty_tree_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "git_commit", lambda: "0123456789ab + changes")
    done = run(startup)
    assert done.exit_code == 2
    assert "Commit first, or give --scratch" in text_of(done)
