"""Folders and files by path or URI."""

from __future__ import annotations

import pytest

from batch.planning.locations import split_uri


@pytest.mark.parametrize(
    ("uri", "is_rest", "parts"),
    [
        ("list.txt", "", (".", "list.txt")),
        ("/list.txt", "", ("/", "list.txt")),
        ("a/b?/c*.jpg", "", ("a/b?", "c*.jpg")),
        ("a/b?/c*.jpg", "?*", ("a", "b?/c*.jpg")),
        ("s3://bucket/a/list.csv?endpoint_override=host:1", "", ("s3://bucket/a?endpoint_override=host:1", "list.csv")),
        ("s3://bucket/a/*/b?endpoint_override=host:1", "?*", ("s3://bucket/a?endpoint_override=host:1", "*/b")),
    ],
)
def test_folder_of_a_uri_keeps_the_query(uri: str, is_rest: str, parts: tuple[str, str]):
    assert split_uri(uri, lambda part: any(letter in part for letter in is_rest)) == parts
