"""Folders that the tests of the folder job read and write: local ones, or on an S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
import typer
from typer.testing import CliRunner, Result

from batch.run_folder import main
from batch.storage.storage import open_storage
from deployments.images.codec import decode_image
from tests.support.images import file_of

REPORTS = ("results.jsonl", "results.parquet", "report.html", "contact_sheet.png", "report_files/", "job.json")

app = typer.Typer()
app.command()(main)

NewFolder = Callable[[str], "Folder"]

# For tests of choices that do not depend on the storage.
on_this_machine = pytest.mark.parametrize("new_folder", ["local"], indirect=True)


class Folder:
    """A folder by its URI, which may not exist yet."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.storage = open_storage(uri)

    def write(self, name: str, data: bytes | np.ndarray[Any, Any]) -> None:
        """Write a file: bytes, or an image in the format of its name."""
        self.storage.write(name, data if isinstance(data, bytes) else file_of(data, name.rpartition(".")[2]))

    def read(self, name: str) -> bytes:
        return self.storage.read(name, 2**30)

    def names(self) -> list[str]:
        """Its visible files."""
        return [info.path for info in self.storage.files()]

    def results(self) -> dict[str, bytes]:
        """The result images: all files except the record and the report."""
        return {name: self.read(name) for name in self.names() if not name.startswith(REPORTS)}

    def pixels(self, name: str) -> np.ndarray[Any, Any]:
        return decode_image(self.read(name), max_bytes=2**30, max_pixels=2**30).pixels

    def rows(self) -> dict[str, dict[str, Any]]:
        """The one line of each source in results.jsonl, by source. Empty before the first result."""
        try:
            rows = [json.loads(line) for line in self.read("results.jsonl").splitlines()]
        except FileNotFoundError:
            return {}
        assert len({row["source"] for row in rows}) == len(rows)
        return {row["source"]: row for row in rows}


def run_folder(source: Folder, output: Folder, *options: object) -> Result:
    """The command, in this process."""
    arguments = ("--input", source.uri, "--output", output.uri, *options)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def job_process(source: Folder, output: Folder) -> subprocess.Popen[str]:
    """The command as a process of its own, which joins the running app."""
    command = [sys.executable, "-m", "batch.run_folder", "--input", source.uri, "--output", output.uri]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | address)


def assert_refused(result: Result, option: str, words: str) -> None:
    """Exit code 2, with the option and the words in the message."""
    message = "".join(result.output.replace("│", " ").split())  # rich breaks long words
    assert result.exit_code == 2
    assert option in message
    assert "".join(words.split()) in message
