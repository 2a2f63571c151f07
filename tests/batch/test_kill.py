"""After a kill of any process of the folder job, the next run ends with the results of an undisturbed run.

A kill of the job's own process is tested in test_folder_resume.py, with an app that starts sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.kill_test import fault, recorded, run_trial, undisturbed
from scripts.killable_job import KINDS, JobSetup, job_setup
from tests.support.service import stop_shared_cluster

EXPECTED = {"a.png": b"a", "b.png": b"b"}


@pytest.fixture(scope="module")
def setup() -> Iterator[tuple[JobSetup, dict[str, bytes]]]:
    stop_shared_cluster()
    with job_setup(num_images=24) as setup:
        yield setup, undisturbed(setup)


@pytest.mark.service
@pytest.mark.parametrize("number", range(1, len(KINDS)), ids=KINDS[1:])
def test_killed_job_ends_as_an_undisturbed_one(setup: tuple[JobSetup, dict[str, bytes]], number: int):
    trial = run_trial(setup[0], number, setup[1])
    assert (trial.killed, trial.wrong) == (KINDS[number], "")


def output_of(folder: Path, files: dict[str, bytes], finished_at: str = "noon") -> Path:
    rows = [{"output": name, "finished_at": finished_at, "error_type": None} for name in EXPECTED]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "finished_at", "wrong"),
    [
        (EXPECTED, "noon", ""),
        (EXPECTED, "one", "2 recorded images were made again"),
        (EXPECTED | {"b.png": b"c"}, "noon", "1 images differ, such as b.png"),
        ({"a.png": b"a"}, "noon", "other files: ['b.png']"),
        (EXPECTED | {".1.part": b""}, "noon", "other files: ['.1.part']"),
    ],
)
def test_kill_test_sees_what_is_wrong(tmp_path: Path, files: dict[str, bytes], finished_at: str, wrong: str):
    output = output_of(tmp_path, files, finished_at)
    assert fault(output, 0, dict.fromkeys(EXPECTED, "noon"), EXPECTED) == wrong
    assert fault(output, 1, {}, EXPECTED) == "the last run ended with exit code 1"


def test_kill_test_leaves_out_a_line_that_was_not_finished(tmp_path: Path):
    output = output_of(tmp_path, EXPECTED)
    with (output / "results.jsonl").open("a") as record:
        record.write('{"output": "c.png", "finished_at": "noon", "error_type": null}')
    assert set(recorded(output)) == set(EXPECTED)
