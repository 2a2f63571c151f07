"""Secrets in the URIs of storages: any characters work, and none is shown."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batch.planning.locations import split_glob, split_uri
from batch.storage.backends import RemoteFolder
from batch.storage.storage import StorageError, open_storage
from tests.support.folders import app

SECRETS = ["wJalr/XUtn+FEMI/K7MDENG=", "12/ab", "50%off", "a?b#c[*]:d", "%2Fab%2B"]
DECODED = {"%2Fab%2B": "/ab+"}
REGION = "?region=us-east-1"


def credentials_of(uri: str) -> dict[str, Any]:
    backend = open_storage(uri).backend
    assert isinstance(backend, RemoteFolder)
    options: dict[str, Any] = backend.filesystem.__reduce__()[1][0]
    return options


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_of_any_characters_is_the_secret(secret: str):
    uri = f"s3://KEY:{secret}@bucket/a@b{REGION}"
    options = credentials_of(uri)
    assert (options["access_key"], options["secret_key"]) == ("KEY", DECODED.get(secret, secret))
    assert str(open_storage(uri)) == "s3://bucket/a@b"


@pytest.mark.parametrize("secret", SECRETS)
def test_split_uri_opens_with_the_same_secret(secret: str):
    uri = f"s3://KEY:{secret}@bucket/a/list.csv{REGION}"
    for folder in (split_uri(uri)[0], split_glob(uri)[0]):
        assert credentials_of(folder)["secret_key"] == DECODED.get(secret, secret)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:{}@bucket/x?colour=red",
        "s3://KEY:{}@bucket/[x?region=a&endpoint_override=b&scheme=no",
        "s3://KEY:{}@",
        "s3://KEY:x{}",
        "S3://KEY:{}@bucket/x",
        "nope://user:pass{}@host/x",
        "abfs://a@b/x?account_key={}",
        "nope://host/x?secret_key={}",
    ],
)
def test_error_about_a_uri_shows_no_secret(uri: str, secret: str):
    with pytest.raises(StorageError) as refused:
        open_storage(uri.format(secret))
    shown = "".join(traceback.format_exception(refused.value)[-1:])
    assert secret not in shown
    assert DECODED.get(secret, secret) not in shown
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("option", ["--input", "--output", "--manifest", "--prompts-file"])
def test_command_shows_no_secret_of_a_bad_uri(option: str, tmp_path: Path):
    (tmp_path / "in").mkdir()
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), option]
    result = CliRunner().invoke(app, [*arguments, "s3://KEY:wJalr/XUtn+FEMI@bucket/x?colour=red"])
    assert result.exit_code == 2
    assert "colour" in result.output
    assert "wJalr" not in result.output
    assert "FEMI" not in result.output
