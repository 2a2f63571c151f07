"""Inputs whose names hold brackets, blanks and percent signs: as a path, a file URI and an S3 URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from batch.planning.sources import find_sources
from batch.storage.storage import Storage, open_storage
from deployments.engine.errors import InvalidRequest
from tests.support.s3_server import S3Server

KINDS = ["path", "file", pytest.param("s3", marks=pytest.mark.service)]
FOLDER = "in [2024] 50% off"


class Inputs:
    """The images `FOLDER`/a [1].png, `FOLDER`/b.png and `FOLDER`/sub/c.png by one kind of address."""

    def __init__(self, root: Storage, address: str, query: str, *, is_uri: bool) -> None:
        self.is_uri = is_uri
        self._address, self._query = address, query
        for name in ("a [1].png", "b.png", "sub/c.png"):
            root.write(f"{FOLDER}/{name}", b"image")

    def found(self, path: str) -> list[str]:
        """The images of an input below the root, relative to its folder."""
        listing = find_sources(f"{self._address}/{path}{self._query}")
        assert all(listing.storage.exists(source.path) for source in listing.sources)
        return [source.path for source in listing.sources]


@pytest.fixture(params=KINDS)
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> Inputs:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        address, _, query = server.uri().partition("?")
        return Inputs(open_storage(f"{address}?{query}"), address, f"?{query}", is_uri=True)
    address = str(tmp_path) if request.param == "path" else tmp_path.as_uri()
    return Inputs(open_storage(str(tmp_path)), address, "", is_uri=request.param == "file")


def test_folder_is_found_by_its_name_as_it_is(inputs: Inputs):
    assert inputs.found(FOLDER) == ["a [1].png", "b.png", "sub/c.png"]


def test_glob_below_a_folder_with_brackets_matches_in_that_folder(inputs: Inputs):
    assert inputs.found(f"{FOLDER}/*.png") == ["a [1].png", "b.png"]
    assert inputs.found(f"{FOLDER}/s*/[c].png") == ["sub/c.png"]
    assert inputs.found("in*/b.png") == [f"{FOLDER}/b.png"]


def test_escaped_names_in_a_uri_are_the_names(inputs: Inputs):
    if inputs.is_uri:
        escaped = quote(FOLDER)
        assert inputs.found(escaped) == ["a [1].png", "b.png", "sub/c.png"]
        assert inputs.found(f"{escaped}/a%20%5B1%5D*") == ["a [1].png"]


def test_bracket_in_a_name_can_be_escaped_in_a_glob(inputs: Inputs):
    assert inputs.found(f"{FOLDER}/a [[]1].*") == ["a [1].png"]


def test_glob_with_brackets_that_matches_nothing_says_how_a_bracket_is_escaped(inputs: Inputs):
    with pytest.raises(InvalidRequest, match=r" matches 'a \[1\].png'.*\[\[\]") as refused:
        inputs.found(f"{FOLDER}/a [1].png")
    assert refused.value.param == "input"


def test_glob_that_matches_nothing_is_named(inputs: Inputs):
    with pytest.raises(InvalidRequest, match=r"no file in '.*' matches '\*\.pgn'$"):
        inputs.found("*.pgn")
