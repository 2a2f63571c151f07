"""A real S3 server, one that is busy at times, as a storage of images."""

from __future__ import annotations

import os

import pytest
from pyarrow.fs import FileSelector, FileType

from batch.storage.storage import Storage, open_storage
from tests.support.s3_server import BUCKET, S3Server

pytestmark = pytest.mark.service


def test_remote_listing_takes_no_request_per_file(s3: S3Server, remote: Storage):
    for number in range(30):
        remote.write(f"{number % 3}/{number}.png", b"x")
    before = len(s3.requests)
    assert len(list(remote.files())) == 30
    assert len(s3.requests) - before <= 2


def test_remote_write_is_one_request_and_leaves_one_object(s3: S3Server, remote: Storage):
    before = len(s3.requests)
    remote.write("sub/a.png", b"x" * 1024**2)
    assert [method for method, _ in s3.requests[before:]] == ["PUT"]
    found = s3.file_system().get_file_info(FileSelector(str(remote).removeprefix("s3://"), recursive=True))
    assert [info.base_name for info in found if info.type == FileType.File] == ["a.png"]


def test_large_object_is_written_in_parts_and_whole(remote: Storage):
    data = os.urandom(12 * 1024**2)
    remote.write("large.tif", data)
    assert remote.read("large.tif", len(data)) == data


def test_busy_server_loses_nothing(s3: S3Server, remote: Storage):
    s3.failure_rate = 0.2
    try:
        for number in range(10):
            remote.write(f"{number}.png", str(number).encode())
        assert [remote.read(info.path, 1) for info in remote.files()] == [str(number).encode() for number in range(10)]
    finally:
        s3.failure_rate = 0.0


@pytest.mark.parametrize(("name", "content_type"), [("a.png", "image/png"), ("report.html", "text/html")])
def test_browser_is_told_what_an_object_is(s3: S3Server, remote: Storage, name: str, content_type: str):
    remote.write(name, b"x")
    with s3.file_system().open_input_stream(f"{str(remote).removeprefix('s3://')}/{name}") as stream:
        assert stream.metadata()["Content-Type"] == content_type.encode()


def test_missing_bucket_is_named(s3: S3Server):
    storage = open_storage(s3.uri().replace(f"@{BUCKET}/", "@nowhere/"))
    with pytest.raises(OSError, match="nowhere"):
        storage.write("a.png", b"x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(storage.files())
