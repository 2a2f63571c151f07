"""Which records are written, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from benchmarks import publishing
from benchmarks.publishing import PublishedRecord, provenance, write_record
from benchmarks.service.startup import main as startup
from tests.support.commands import run, text_of
from tests.support.records import FACTS

COMMIT = FACTS["commit"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(publishing, "RESULTS", tmp_path)
    return tmp_path


def check_out(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    """As git would say; the machine is not asked, which starts nvidia-smi."""
    monkeypatch.setattr(publishing, "git_commit", lambda: commit)
    monkeypatch.setattr(publishing, "describe_machine", lambda: FACTS["machine"])


@pytest.mark.parametrize("commit", [f"{COMMIT} + changes", "unknown"])
def test_uncommitted_code_is_not_published(results: Path, monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    check_out(monkeypatch, commit)
    with pytest.raises(typer.BadParameter, match=r"committed code only.*Commit first, or give --scratch"):
        provenance("python -m x", results)
    for facts in (provenance("", results, scratch=True), provenance("", results.parent)):
        assert facts["commit"] == commit


def test_committed_code_is_published(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_out(monkeypatch, COMMIT)
    facts = provenance("python -m x", results / "below")
    assert write_record(PublishedRecord(**facts), "x", results, rounds=3, images=10)
    assert PublishedRecord.model_validate_json((results / "x.json").read_text()).command == "python -m x"


def test_a_given_commit_stands_in_where_there_is_no_git_and_nowhere_else(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_out(monkeypatch, "unknown")
    facts = provenance("", results, commit="given")
    assert facts["commit"] == "given"
    assert write_record(PublishedRecord(**facts), "x", results, rounds=3, images=10)
    check_out(monkeypatch, COMMIT)
    assert provenance("", results, commit="given")["commit"] == COMMIT


@pytest.mark.parametrize("now", ["ba9876543210", f"{COMMIT} + changes"])
def test_a_tree_that_changed_during_the_measurement_is_not_published(
    results: Path, monkeypatch: pytest.MonkeyPatch, now: str
) -> None:
    check_out(monkeypatch, now)
    assert not write_record(PublishedRecord(**FACTS), "x", results, rounds=3, images=10)
    assert list(results.iterdir()) == []


@pytest.mark.parametrize("sample", [{"rounds": None, "images": 10}, {"rounds": 3, "images": None}])
def test_what_has_no_rounds_or_no_images_is_exempt(
    results: Path, monkeypatch: pytest.MonkeyPatch, sample: dict[str, int | None]
) -> None:
    check_out(monkeypatch, COMMIT)
    assert write_record(PublishedRecord(**FACTS), "x", results, **sample)


@pytest.mark.parametrize(("rounds", "images"), [(2, 10), (3, 9), (None, 9), (2, None)])
def test_small_samples_are_written_elsewhere_only(
    results: Path, tmp_path_factory: pytest.TempPathFactory, rounds: int | None, images: int | None
) -> None:
    record, elsewhere = PublishedRecord(**FACTS), tmp_path_factory.mktemp("elsewhere")
    write_record(record, "x", results, rounds=rounds, images=images)
    assert list(results.iterdir()) == []
    write_record(record, "x", elsewhere, rounds=rounds, images=images)
    assert [file.name for file in elsewhere.iterdir()] == ["x.json"]
    write_record(record, "y", elsewhere, scratch=True, rounds=rounds, images=images)
    assert not (elsewhere / "y.json").exists()


def test_a_command_refuses_a_dirty_tree_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    check_out(monkeypatch, f"{COMMIT} + changes")
    done = run(startup)
    assert done.exit_code == 2
    assert "Commit first, or give --scratch" in text_of(done)
