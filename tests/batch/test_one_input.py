"""The results in one output folder are those of one input folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.record.job_file import JOB_FILE, JobRecord, record_job, recorded_job
from batch.running.output import check_input
from batch.storage.storage import Storage, open_storage
from deployments.engine.errors import InvalidRequest
from tests.support.s3_server import S3Server


@pytest.fixture
def outputs(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def test_another_input_into_one_output_is_refused_by_both_names(tmp_path: Path, outputs: Storage):
    first, second = (open_storage(str(tmp_path / year)) for year in ("2023", "2024"))
    record_job(first, outputs)
    with pytest.raises(InvalidRequest) as refused:
        check_input(second, outputs)
    assert refused.value.param == "output"
    assert f"holds the results of '{first}', not of '{second}'" in str(refused.value)
    record_job(second, outputs)  # --overwrite
    check_input(second, outputs)


def test_one_input_has_many_spellings(tmp_path: Path, outputs: Storage, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in [1]").mkdir()
    (tmp_path / "link").symlink_to("in [1]")
    monkeypatch.chdir(tmp_path)
    record_job(open_storage(str(tmp_path / "in [1]")), outputs)
    for spelling in ("in [1]", "in [1]/", "./link", "../" + tmp_path.name + "/in [1]", f"file://{tmp_path}/in%20[1]/"):
        check_input(open_storage(spelling), outputs)


def test_input_and_output_may_move_together(tmp_path: Path):
    before, after = ([open_storage(str(tmp_path / place / name)) for name in ("in", "out")] for place in ("a", "b"))
    record_job(*before)
    Path(tmp_path / "a").rename(tmp_path / "b")
    check_input(*after)


def test_output_without_a_legible_record_takes_any_input(tmp_path: Path, outputs: Storage):
    for content in (None, b"", b"{}", b"[1]", bytes(10**6)):
        if content is not None:
            outputs.write(JOB_FILE, content)
        check_input(open_storage(str(tmp_path / "in")), outputs)


def test_record_of_a_later_version_is_read(outputs: Storage):
    outputs.write(JOB_FILE, b'{"input": "/in", "colour": "red"}')
    assert recorded_job(outputs) == JobRecord(input="/in")


@pytest.mark.service
def test_remote_input_is_recorded_without_its_secrets(s3: S3Server, outputs: Storage):
    record_job(open_storage(s3.uri("in")), outputs)
    check_input(open_storage(s3.uri("in/").replace("testing:testing", "another:key")), outputs)
    assert recorded_job(outputs) == JobRecord(input=f"s3://images/in?endpoint_override={s3.endpoint}")
    with pytest.raises(InvalidRequest):
        check_input(open_storage(s3.uri("in2")), outputs)
