"""Local folders and a real S3 server behind the same operations."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batch.storage.storage import FileTooLarge, Storage, StorageError, open_storage, overlap

EVERY_STORAGE = ["local", pytest.param("s3", marks=pytest.mark.service)]


@pytest.fixture(params=EVERY_STORAGE)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "folder"))
    remote: Storage = request.getfixturevalue("remote")
    return remote


class Unsteady(MemoryFileSystem):
    """A server whose next answers are `errors`. `num_requests` counts all requests."""

    protocol = "unsteady"
    errors: list[OSError] = []
    num_requests = 0

    def _open(self, *args: object, **kwargs: object) -> object:
        Unsteady.num_requests += 1
        if Unsteady.errors:
            raise Unsteady.errors.pop(0)
        return super()._open(*args, **kwargs)


@pytest.fixture
def unsteady() -> Storage:
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    storage = open_storage("unsteady://images")
    storage.write("a.png", b"bytes")
    Unsteady.num_requests = 0
    return storage


def listed(storage: Storage, *, recursive: bool = True) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    return [info.path for info in storage.files(recursive, problems.append)], problems


@pytest.mark.parametrize("path", ["a.png", "sub/b.png", "my photos/50% + ?#&=ü写真.png", "~a/[1].png"])
def test_any_name_comes_back_with_what_was_written(storage: Storage, path: str):
    storage.write(path, b"bytes")
    assert storage.read(path, 5) == b"bytes"
    assert storage.exists(path)
    assert listed(storage) == ([path], [])


def test_writing_again_replaces(storage: Storage):
    storage.write("a.png", b"first")
    storage.write("a.png", b"2nd")
    assert storage.read("a.png", 100) == b"2nd"
    assert [info.size for info in storage.files()] == [3]


def test_empty_file_is_a_file(storage: Storage):
    storage.write("a.png", b"")
    assert storage.read("a.png", 0) == b""
    assert storage.exists("a.png")


def test_listing_is_sorted_and_has_sizes_and_times(storage: Storage):
    for path in ("b.png", "a/z.png", "a.png", "a/b/c.png"):
        storage.write(path, path.encode())
    infos = list(storage.files())
    assert [info.path for info in infos] == ["a.png", "a/b/c.png", "a/z.png", "b.png"]
    assert [info.size for info in infos] == [len(info.path) for info in infos]
    assert min(info.mtime_ns for info in infos) > 1_700_000_000 * 10**9


def test_listing_without_sub_folders(storage: Storage):
    for path in ("a.png", "sub/b.png"):
        storage.write(path, b"x")
    assert listed(storage, recursive=False) == (["a.png"], [])


def test_hidden_files_and_folders_are_not_listed(storage: Storage):
    for path in (".hidden.png", "sub/.hidden.png", ".folder/a.png", "sub/.folder/a.png", "sub/a.b.png"):
        storage.write(path, b"x")
    assert listed(storage) == (["sub/a.b.png"], [])


def test_folder_is_a_storage_of_its_own(storage: Storage):
    storage.write(".parts/sub/a.png", b"x")
    assert listed(storage.folder(".parts")) == (["sub/a.png"], [])


def test_too_large_a_file_is_not_read(storage: Storage):
    storage.write("a.png", b"12345")
    with pytest.raises(FileTooLarge, match="5 bytes; at most 4"):
        storage.read("a.png", 4)


def test_what_is_not_there_is_said_to_be_missing(storage: Storage):
    with pytest.raises(FileNotFoundError):
        list(storage.files())
    with pytest.raises(FileNotFoundError):
        storage.read("a.png", 100)
    assert not storage.exists("a.png")
    storage.delete("a.png")


def test_deleted_file_is_gone(storage: Storage):
    storage.write("sub/a.png", b"x")
    storage.write("sub/b.png", b"x")
    storage.delete("sub/a.png")
    assert listed(storage) == (["sub/b.png"], [])


def test_other_process_can_use_the_storage(storage: Storage):
    storage.write("a.png", b"x")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.read("a.png", 1) == b"x"
    assert str(copy) == str(storage)


def test_errors_that_may_pass_are_tried_again(unsteady: Storage):
    Unsteady.errors = [OSError(errno.EIO, "disk"), ConnectionResetError("line"), TimeoutError("late")]
    assert unsteady.read("a.png", 100) == b"bytes"
    assert Unsteady.num_requests == 4


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("no"),
        OSError(errno.ENOSPC, "full"),
        OSError("When reading: AWS Error ACCESS_DENIED during HeadObject operation"),
    ],
)
def test_errors_that_stay_are_raised_at_once(unsteady: Storage, error: OSError):
    Unsteady.errors = [error]
    with pytest.raises(OSError, match=str(error.args[-1])):
        unsteady.read("a.png", 100)
    assert Unsteady.num_requests == 1


def test_other_file_systems_are_reached_by_their_uri():
    storage = open_storage("memory://some/place")
    storage.write("sub/a.png", b"x")
    assert listed(storage) == (["sub/a.png"], [])
    assert storage.read("sub/a.png", 1) == b"x"


def test_file_uri_is_a_local_path(tmp_path: Path):
    open_storage(f"file://{tmp_path}/my%20photos").write("a.png", b"x")
    assert (tmp_path / "my photos" / "a.png").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nope://bucket/x", "nope://bucket/x: .*nope"),
        ("s3://", "no bucket"),
        ("s3://bucket/x?region=a&colour=red", "s3://bucket/x: .*colour"),
    ],
)
def test_bad_uri_is_named(uri: str, words: str):
    with pytest.raises(StorageError, match=words):
        open_storage(uri)


def test_secrets_are_not_shown():
    storage = open_storage("s3://key:secret@bucket/a@b?region=us-east-1&endpoint_override=localhost:1")
    assert str(storage) == "s3://bucket/a@b"
    assert "secret" not in repr(storage)


S3 = "?region=a&endpoint_override=one:1"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("photos", "photos", True),
        ("photos", "photos/out", True),
        ("photos/sub/..", "photos", True),
        ("file://{cwd}/photos", "photos/out", True),
        ("photos", "photos2", False),
        ("photos/in", "photos/out", False),
        (f"s3://bucket/x{S3}", f"s3://key:secret@bucket/x/y/{S3}", True),
        (f"s3://bucket/my photos{S3}", f"s3://bucket/my%20photos{S3}", True),
        (f"s3://bucket{S3}", f"s3://bucket/x{S3}", True),
        (f"s3://bucket/x{S3}", f"s3://bucket/xy{S3}", False),
        (f"s3://bucket/x{S3}", "s3://bucket/x?region=a&endpoint_override=two:1", False),
        (f"s3://bucket/x{S3}", "bucket/x", False),
    ],
)
def test_storages_overlap_when_one_lies_in_the_other(first: str, second: str, expected: bool):
    one, other = (open_storage(uri.replace("{cwd}", str(Path.cwd()))) for uri in (first, second))
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected
