"""Folders and files by path or URI."""

from __future__ import annotations

import pytest

from batch.planning.locations import split_glob, split_uri

S3 = "?endpoint_override=host:1"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("list.txt", (".", "list.txt")),
        ("/list.txt", ("/", "list.txt")),
        ("a/b?/c*.jpg", ("a/b?", "c*.jpg")),
        (f"s3://bucket/a/list.csv{S3}", (f"s3://bucket/a{S3}", "list.csv")),
    ],
)
def test_folder_of_a_uri_keeps_the_query(uri: str, parts: tuple[str, str]):
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("a/b", ("a/b", "**")),
        ("*.jpg", (".", "*.jpg")),
        ("/nowhere*/b", ("/", "nowhere*/b")),
        ("a/b?/c*.jpg", ("a", "b?/c*.jpg")),
        ("memory://a/*/b%5B%20.png?x=1", ("memory://a?x=1", "*/b[[] .png")),
    ],
)
def test_glob_starts_at_the_first_part_with_a_wildcard(uri: str, parts: tuple[str, str]):
    assert split_glob(uri) == parts
