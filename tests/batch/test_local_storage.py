"""A local folder as a storage: atomic writes, links, and files that cannot be read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch.storage.storage import Storage, open_storage, overlap

NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything, so be somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def listed(storage: Storage, *, recursive: bool = True) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    return [info.path for info in storage.files(recursive, problems.append)], problems


def test_failed_write_leaves_the_folder_as_it_was(tmp_path: Path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError):
        open_storage(str(tmp_path)).write("a.png", b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.png"]


def test_sweep_removes_what_killed_writers_left_and_nothing_else(tmp_path: Path):
    kept = {"a.png", ".mine.part", "sub/.0123.part", f"{'0' * 32}.part"}
    left = {f".{'0' * 32}.part", f"sub/.{'c0ffee' * 5}00.part"}
    (tmp_path / "sub").mkdir()
    for path in kept | left:
        (tmp_path / path).touch()
    assert open_storage(str(tmp_path)).sweep() == len(left)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_sweep_leaves_the_file_that_another_program_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = open_storage(str(tmp_path))
    swept: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: swept.append(storage.sweep()))  # before the file has its name
    storage.write("a.png", b"x")
    assert (swept, storage.read("a.png", 1)) == ([0], b"x")


def test_links_are_followed_but_never_in_circles(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").touch()
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").touch()
    (folder / "sub" / "up").symlink_to("..")
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    paths, problems = listed(open_storage(str(folder)))
    assert paths == ["other/b.png", "sub/a.png"]
    assert problems == ["'sub/up': a link to a folder above it, not followed"]


def test_links_to_nowhere_are_listed_as_problems(tmp_path: Path):
    (tmp_path / "a.png").touch()
    (tmp_path / "gone.png").symlink_to("nothing")
    (tmp_path / "self.png").symlink_to("self.png")
    paths, problems = listed(open_storage(str(tmp_path)))
    assert paths == ["a.png"]
    assert [problem.partition(":")[0] for problem in problems] == ["'gone.png'", "'self.png'"]


def test_unreadable_folder_is_listed_as_a_problem():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "a.png").touch()
        (Path(folder) / "locked").mkdir(mode=0)
        with without_privileges():
            assert listed(open_storage(folder)) == (["a.png"], ["'locked': Permission denied"])


def test_pipes_are_no_images(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    assert listed(open_storage(str(tmp_path))) == ([], [])


def test_undecodable_name_is_listed(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    assert listed(open_storage(str(tmp_path))) == (["\udcff.png"], [])


def test_link_to_a_folder_is_that_folder(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    assert overlap(open_storage(str(tmp_path / "photos")), open_storage(str(tmp_path / "link")))
