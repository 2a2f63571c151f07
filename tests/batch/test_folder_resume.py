"""A folder job resumes after any stop, and makes again only the results that are missing, damaged or outdated."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from threading import Timer

import pytest

from batch.storage import lock
from tests.support.folders import Folder, NewFolder, job_process, on_this_machine, run_folder
from tests.support.images import gradient
from tests.support.s3_server import s3_server
from tests.support.service import eventually
from tests.support.stand_in import asking

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]


@pytest.fixture
def source(new_folder: NewFolder) -> Folder:
    folder = new_folder("in")
    for name in ("a.png", "b.png", "sub/c.png"):
        folder.write(name, gradient())
    return folder


@pytest.fixture
def output(new_folder: NewFolder) -> Folder:
    return new_folder("out")


def finished_at(output: Folder) -> dict[str, str]:
    """The time of each result by source, which is the same if it was not made again."""
    return {source: row["finished_at"] for source, row in output.rows().items()}


def remade(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {source for source in after if after[source] != before.get(source)}


def test_next_run_makes_what_is_new_changed_gone_or_cut_and_nothing_else(source: Folder, output: Folder):
    source.write("kept.png", gradient())
    assert run_folder(source, output).exit_code == 0
    before, files, rows = finished_at(output), output.results(), output.rows()
    result = run_folder(source, output)
    assert result.exit_code == 0
    assert "0 to make, 4 done before" in result.output
    assert (finished_at(output), output.results()) == (before, files)
    source.write("new.png", gradient())
    source.write("a.png", gradient(50, 40))
    output.storage.delete(rows["b.png"]["output"])
    output.write(rows["sub/c.png"]["output"], output.read(rows["sub/c.png"]["output"])[:-9])
    assert run_folder(source, output).exit_code == 0
    assert remade(before, finished_at(output)) == {"new.png", "a.png", "b.png", "sub/c.png"}
    assert output.pixels(output.rows()["a.png"]["output"]).shape == (40, 50, 3)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, `in` with three images and a bad one, and `out` with the results of a run."""
    root = tmp_path_factory.mktemp("first run")
    source = Folder(str(root / "in"))
    for name in ("a.png", "b.png", "sub/c.png"):
        source.write(name, gradient())
    source.write("bad.png", b"no image")
    result = run_folder(source, Folder(str(root / "out")))
    assert result.exit_code == 1
    assert "3 of 4 images done, 1 failed" in result.output
    return root


@pytest.fixture
def again(first_run: Path, tmp_path: Path) -> tuple[Folder, Folder]:
    """A copy of both folders, with the same modification times."""
    shutil.copytree(first_run, tmp_path, dirs_exist_ok=True)
    return Folder(str(tmp_path / "in")), Folder(str(tmp_path / "out"))


def planned(again: tuple[Folder, Folder], *options: object) -> str:
    """What a run with these options would do."""
    result = run_folder(*again, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    return result.output


def test_failed_image_stands_until_it_is_retried(again: tuple[Folder, Folder]):
    before = finished_at(again[1])
    result = run_folder(*again)
    assert result.exit_code == 1
    assert "0 to make, 3 done before" in result.output
    assert "1 failed in earlier runs (--retry-failed to retry)" in result.output
    assert finished_at(again[1]) == before
    assert "1 to make, 3 done before" in planned(again, "--retry-failed")


def test_overwrite_makes_everything_again(again: tuple[Folder, Folder]):
    assert "4 to make, 0 done before" in planned(again, "--overwrite")


def test_verify_finds_what_only_the_bytes_show(again: tuple[Folder, Folder]):
    source, output = again
    name = output.rows()["b.png"]["output"]
    output.write(name, bytes(len(output.read(name))))
    assert "0 to make, 3 done before" in planned(again)
    source.write("a.png", source.read("a.png"))  # a new time, the same bytes
    assert "1 to make, 2 done before" in planned(again, "--verify")


def test_other_settings_are_other_results_beside_the_old(again: tuple[Folder, Folder]):
    first = again[1].results()
    assert run_folder(*again, "--strength", 0.6).exit_code == 1
    assert first.items() < again[1].results().items()
    assert len(again[1].results()) == 6


@on_this_machine
def test_dry_run_counts_finds_bad_images_measures_and_writes_nothing(source: Folder, output: Folder):
    source.write("bad.png", b"no image")
    result = run_folder(source, output, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "failed: bad.png: NotAnImage" in result.output
    assert "3 to make, 1 unreadable" in result.output
    assert "Measured on 3 images: " in result.output
    with pytest.raises(FileNotFoundError):
        output.names()


@on_this_machine
def test_deadline_lets_images_in_flight_end_and_the_next_run_goes_on(source: Folder, output: Folder):
    for number in range(12):
        source.write(f"{number}.png", asking("take a while"))
    result = run_folder(source, output, "--deadline", 0.05, "--concurrency", 1)
    assert result.exit_code == 3
    assert "Deadline reached" in result.output
    assert "Run the same command to resume" in result.output
    num_done = len(output.rows())
    assert num_done < 15
    assert len(output.results()) == num_done
    assert f"{15 - num_done} to make, {num_done} done before" in run_folder(source, output, "--dry-run").output


@on_this_machine
def test_interrupted_job_finishes_what_is_in_flight_and_says_how_to_go_on(source: Folder, output: Folder):
    for number in range(40):
        source.write(f"{number}.png", asking("take a while"))
    with job_process(source, output) as job:
        assert job.stdout is not None
        guard = Timer(120, job.kill)
        guard.start()
        eventually(lambda: len(output.results()) >= 2, every_s=0.1)
        job.send_signal(signal.SIGINT)
        message = job.stdout.read()
        job.wait()
        guard.cancel()
    assert job.returncode == 130, message
    assert "Interrupted" in message
    assert "Run the same command to resume" in message
    rows = output.rows()
    assert set(output.results()) == {row["output"] for row in rows.values()}
    assert 2 <= len(rows) < 43
    assert "report.html" in output.names()


def test_killed_job_goes_on_after_its_last_recorded_result(
    source: Folder, output: Folder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "STALE_S", 1)
    source.write("stuck.png", asking("never answer"))
    with job_process(source, output) as job:
        guard = Timer(120, job.kill)
        guard.start()
        eventually(lambda: len(output.results()) >= 3, every_s=0.1)
        job.kill()
        guard.cancel()
    before = finished_at(output)  # nothing on S3, where a killed job loses the record of its last five seconds
    files = output.results()
    folder = output.storage.local
    if folder is not None:
        with open(folder / "results.jsonl", "ab") as record:
            record.write(b'{"source": "torn')
        (folder / f".{'0' * 32}.part").touch()
    source.write("stuck.png", gradient())
    assert run_folder(source, output).exit_code == 0
    assert remade(before, finished_at(output)).isdisjoint(before)
    assert set(output.rows()) == {"a.png", "b.png", "sub/c.png", "stuck.png"}
    assert files.items() <= output.results().items()
    assert len(output.results()) == 4
    assert folder is None or not list(folder.rglob(".*"))


def test_record_that_cannot_be_written_ends_the_job_with_a_line_and_the_next_run_goes_on(tmp_path: Path):
    source = Folder(str(tmp_path))
    source.write("a.png", gradient())
    with s3_server() as server:
        output = Folder(server.uri())
        server.denied = "/.results/"
        result = run_folder(source, output)
        assert result.exit_code == 1
        *_, message = result.output.splitlines()
        assert "AWS Error ACCESS_DENIED" in message
        assert "Run the same command to resume" in message
        assert output.rows() == {}
        server.denied = None
        assert "1 to make, 0 done before" in run_folder(source, output, "--dry-run").output
