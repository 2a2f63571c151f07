"""The record and the report of a second run, after a source or a checkpoint changed in between."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from batch.planning.sources import find_sources
from batch.planning.sweep import Sweep
from batch.record.append_log import FileLog
from batch.record.results import Result
from batch.run_folder import JobSpec
from batch.running.job import FolderJob
from batch.storage.lock import Lock
from deployments.config import AppConfig
from deployments.schemas import Img2ImgOptions
from tests.support.folders import Folder
from tests.support.images import file_of, gradient

CONFIG = AppConfig(models={"tiny": {"checkpoint": "none"}}, prompts=("in oil",))
IMAGE = file_of(gradient(), "png")


@pytest.fixture
def source(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "in"))
    folder.write("a.png", IMAGE)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


def new_job(source: Folder, output: Folder, config: AppConfig = CONFIG, *, verify: bool = False) -> FolderJob:
    listing = find_sources(source.uri)
    return JobSpec(listing, output.storage, Img2ImgOptions(), Sweep(), None, False, False, False, verify).job(
        config, Lock()
    )


def run(source: Folder, output: Folder, config: AppConfig = CONFIG) -> None:
    """A run whose every image gets an image."""
    job = new_job(source, output, config)
    for each in job.work.todo:
        output.write(each.output, IMAGE)
        facts = {"output_bytes": len(IMAGE), "source_sha256": hashlib.sha256(IMAGE).hexdigest()}
        job.ledger.append(Result.of(each, **facts))
    job.finish()


def failing(output: Folder) -> dict[str, set[str]]:
    """The sources that each file about the results says failed."""
    lines = [json.loads(line) for line in output.read("results.jsonl").splitlines()]
    table = parquet.read_table(BytesIO(output.read("results.parquet"))).to_pylist()
    (page,) = re.findall(r'"rows":(\[.*?\])}</script>', output.read("report.html").decode())
    files = {"results.jsonl": lines, "results.parquet": table, "report.html": json.loads(page)}
    return {name: {row["source"] for row in rows if row.get("error_type")} for name, rows in files.items()}


def remove_caption(source: Folder) -> None:
    source.storage.delete("b.txt")


def rewrite_caption(source: Folder) -> None:
    source.write("b.txt", b"in oil")


def remove_image(source: Folder) -> None:
    source.storage.delete("b.png")
    source.storage.delete("b.txt")


@pytest.mark.parametrize("resolve", [remove_caption, rewrite_caption, remove_image])
@pytest.mark.parametrize("is_done_before", [False, True])
def test_failure_without_an_output_is_forgotten_once_it_is_resolved(
    source: Folder, output: Folder, resolve: Callable[[Folder], None], is_done_before: bool
):
    source.write("b.png", IMAGE)
    if is_done_before:
        run(source, output)
    source.write("b.txt", b"\xff")
    run(source, output)
    assert failing(output) == dict.fromkeys(failing(output), {"b.png"})
    resolve(source)
    run(source, output)
    assert failing(output) == dict.fromkeys(failing(output), set())


def test_failure_without_an_output_stands_as_long_as_it_is_found(source: Folder, output: Folder):
    source.write("a.txt", b"\xff")
    run(source, output)
    before = output.read("report.html"), output.read("results.jsonl")
    run(source, output)
    assert (output.read("report.html"), output.read("results.jsonl")) == before
    assert failing(output)["report.html"] == {"a.png"}


def test_image_is_made_again_when_its_checkpoint_was_changed_in_place(source: Folder, output: Folder, tmp_path: Path):
    config = AppConfig(models={"tiny": {"checkpoint": str(tmp_path / "tiny")}})
    rows = []
    for content in ("{}", "{}", '{"other": 1}'):
        Folder(str(tmp_path / "tiny")).write("model_index.json", content.encode())
        run(source, output, config)
        rows.append(output.rows()["a.png"])
    assert rows[0] == rows[1]
    assert None not in {row["revision"] for row in rows}
    assert rows[1]["revision"] != rows[2]["revision"]
    assert rows[1]["digest"] != rows[2]["digest"]


def test_new_time_of_the_same_bytes_is_recorded_at_the_end_of_a_run_and_not_when_it_is_planned(
    source: Folder, output: Folder, tmp_path: Path
):
    run(source, output)
    row = output.rows()["a.png"]
    os.utime(tmp_path / "in" / "a.png", ns=(1, 1))
    job = new_job(source, output, verify=True)
    assert (job.work.todo, output.rows()["a.png"]) == ([], row)
    job.finish()
    assert output.rows()["a.png"] == row | {"source_mtime_ns": 1, "digest": job.work.done[0].digest}
    assert new_job(source, output).work.todo == []


def test_end_of_a_run_reads_the_record_once(source: Folder, output: Folder, monkeypatch: pytest.MonkeyPatch):
    run(source, output)
    source.write("b.png", IMAGE)
    reads: list[FileLog] = []
    read = FileLog.lines
    monkeypatch.setattr(FileLog, "lines", lambda log: reads.append(log) or read(log))
    run(source, output)
    assert len(reads) == 2  # what is done, and the end
    assert set(output.rows()) == {"a.png", "b.png"}


def test_fields_of_a_later_version_are_kept_and_their_images_are_done(source: Folder, output: Folder):
    run(source, output)
    later: dict[str, Any] = output.rows()["a.png"] | {"colour": "red"}
    output.write("results.jsonl", json.dumps(later).encode() + b"\n")
    job = new_job(source, output)
    assert job.work.todo == []
    assert job.ledger.read().problems == []
    source.write("b.png", IMAGE)
    run(source, output)
    assert output.rows()["a.png"] == later
    assert parquet.read_table(BytesIO(output.read("results.parquet"))).num_rows == 2
