"""What results.jsonl says is done, whatever was killed while it was written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from batch.record.append_log import SAVE_LINES
from batch.record.ledger import PARQUET_FILE, Ledger
from batch.record.results import RESULTS_FILE, Result
from batch.storage.storage import Storage, open_storage
from tests.support.ledgers import IMAGE, SETTINGS, a_job, failed, is_done, job_of, lines_of, make, record

EVERY_STORAGE = ["local", pytest.param("s3", marks=pytest.mark.service)]


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


@pytest.fixture(params=EVERY_STORAGE)
def outputs(request: pytest.FixtureRequest) -> Storage:
    """Where the results go."""
    name = "remote" if request.param == "s3" else "local"
    storage: Storage = request.getfixturevalue(name)
    return storage


@pytest.fixture
def sources(tmp_path: Path) -> Storage:
    """The images, with a mask."""
    storage = open_storage(str(tmp_path / "in"))
    storage.write("a.png", IMAGE)
    storage.write("mask.png", IMAGE)
    return storage


def test_result_says_what_was_asked_and_when_it_was_finished():
    result = Result.of(a_job(revision="abc"), attempts=2)
    assert (result.seed, result.revision, result.source_bytes, result.attempts) == (2**63 - 1, "abc", 5, 2)
    assert result.digest == a_job(revision="abc").digest
    assert result.finished_at is not None
    age = datetime.now(UTC) - datetime.fromisoformat(result.finished_at)
    assert 0 <= age.total_seconds() < 60


def test_recorded_results_come_back(outputs: Storage):
    results = {f"{number}.png": Result.of(a_job(output=f"{number}.png")) for number in range(3)}
    record(outputs, *results.values())
    assert Ledger(outputs).load() == results


def test_nothing_is_recorded_in_a_new_folder(outputs: Storage):
    assert Ledger(outputs).load() == {}
    assert Ledger(outputs).done([a_job()], outputs.files()) == ([a_job()], [])


def test_last_result_of_an_output_counts(outputs: Storage):
    again = Result.of(a_job(), attempts=2)
    record(outputs, failed(a_job()), again)
    assert Ledger(outputs).load() == {"a_out.png": again}


def test_images_without_an_output_are_told_apart_by_their_source(outputs: Storage):
    results = [Result(source=name, error_type="BadFileName") for name in ("a", "b")]
    record(outputs, *results)
    assert Ledger(outputs).load() == {"a": results[0], "b": results[1]}


def test_closed_ledger_is_one_file_with_one_line_for_each_output(outputs: Storage):
    record(outputs, failed(a_job()), failed(a_job(output="b.png")))
    record(outputs, Result.of(a_job()))
    assert [(line["output"], line["error_type"]) for line in lines_of(outputs)] == [
        ("a_out.png", None),
        ("b.png", "NotAnImage"),
    ]
    assert [info.path for info in outputs.files()] == [RESULTS_FILE]


def test_results_from_many_threads_stay_whole(outputs: Storage):
    ledger = Ledger(outputs)
    results = [Result.of(a_job(output=f"{number}.png"), error="x" * 5000) for number in range(2 * SAVE_LINES)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ledger.append, results))
    ledger.close(ledger.read())
    assert Ledger(outputs).load() == {str(result.output): result for result in results}


@pytest.mark.parametrize("num_left", [1, 100, -1])
def test_line_that_was_torn_by_a_kill_is_cut_off(local: Storage, num_left: int):
    first, torn, last = (Result.of(a_job(output=f"{name}.png")) for name in "abc")
    record(local, first)
    written = local.read(RESULTS_FILE, 10**6)
    local.write(RESULTS_FILE, written + (torn.model_dump_json() + "\n").encode()[:num_left])
    ledger = Ledger(local)
    record_before = ledger.read()
    assert (record_before.results, record_before.problems) == ({"a.png": first}, [])
    ledger.append(last)
    assert local.read(RESULTS_FILE, 10**6) == written + (last.model_dump_json() + "\n").encode()


def test_record_of_one_torn_line_starts_anew(local: Storage):
    local.write(RESULTS_FILE, b'{"source": "a.p')
    result = Result.of(a_job())
    record(local, result)
    assert lines_of(local) == [result.model_dump(mode="json")]


@pytest.mark.parametrize("damage", [b'{"source": "a.p', b"\0" * 50, b"\xff\xfe", b'{"colour": "red"}'])
def test_damaged_line_is_named_skipped_and_kept(outputs: Storage, damage: bytes):
    before, after = Result.of(a_job(output="a.png")), Result.of(a_job(output="b.png"))
    lines = [before.model_dump_json().encode(), damage, after.model_dump_json().encode(), b""]
    outputs.write(RESULTS_FILE, b"\n".join(lines))
    ledger = Ledger(outputs)
    found = ledger.read()
    assert found.results == {"a.png": before, "b.png": after}
    assert len(found.problems) == 1
    assert f"{RESULTS_FILE}, line 2: " in found.problems[0]
    ledger.append(failed(a_job(output="a.png")))
    ledger.close(ledger.read())
    assert damage in outputs.read(RESULTS_FILE, 10**6).split(b"\n")


def test_record_of_an_older_version_is_read(local: Storage):
    local.write(RESULTS_FILE, b'{"source": "a.png", "output": "a_out.png", "model": "tiny", "total_s": 1.5}\n')
    assert Ledger(local).load() == {"a_out.png": Result(source="a.png", output="a_out.png", model="tiny", total_s=1.5)}
    assert not is_done(local, a_job())


def test_finished_job_is_done(outputs: Storage):
    result = make(outputs, a_job())
    record(outputs, result)
    assert Ledger(outputs).done([a_job()], outputs.files()) == ([], [result])


def test_jobs_keep_their_order(local: Storage):
    jobs = [a_job(output=f"{number}.png") for number in range(6)]
    results = [make(local, job) for job in jobs[::2]]
    record(local, *results)
    assert Ledger(local).done(jobs, local.files()) == (jobs[1::2], results)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "b.png"},
        {"settings": SETTINGS.model_copy(update={"seed": 1})},
        {"settings": SETTINGS.model_copy(update={"prompt": "a fox "})},
        {"revision": "v2"},
        {"source_bytes": 6},
        {"source_mtime_ns": 8},
        {"mask": "mask.png"},
    ],
)
def test_changed_job_is_done_again(local: Storage, change: dict[str, Any]):
    record(local, make(local, a_job()))
    assert is_done(local, a_job())
    assert not is_done(local, a_job(**change))


@pytest.mark.parametrize("change", [{"mask_bytes": 6}, {"mask_mtime_ns": 8}, {"mask": "other.png"}])
def test_changed_mask_makes_the_job_anew(local: Storage, change: dict[str, Any]):
    job = a_job(mask="mask.png", mask_bytes=5, mask_mtime_ns=7)
    record(local, make(local, job))
    assert is_done(local, job)
    assert not is_done(local, job.model_copy(update=change))


@pytest.mark.parametrize("left", [None, b"", IMAGE[:-1]])
def test_missing_or_cut_output_is_made_again(outputs: Storage, left: bytes | None):
    record(outputs, make(outputs, a_job()))
    outputs.delete("a_out.png")
    if left is not None:
        outputs.write("a_out.png", left)
    assert not is_done(outputs, a_job())


def test_failed_job_is_tried_again_only_when_asked(local: Storage):
    record(local, failed(a_job()))
    assert is_done(local, a_job())
    assert not is_done(local, a_job(), retry_failed=True)
    assert not is_done(local, a_job(revision="v2"))


def test_touched_image_with_the_same_bytes_is_done_when_verified(outputs: Storage, sources: Storage):
    job = job_of(sources)
    record(outputs, make(outputs, job))
    touched = job.model_copy(update={"source_mtime_ns": 1, "mask_mtime_ns": 2})
    assert not is_done(outputs, touched)
    todo, finished = Ledger(outputs).done([touched], outputs.files(), verify=sources)
    assert (todo, [result.digest for result in finished]) == ([], [touched.digest])


@pytest.mark.parametrize("name", ["a.png", "mask.png"])
def test_changed_bytes_of_the_same_size_and_time_are_found_when_verified(local: Storage, sources: Storage, name: str):
    job = job_of(sources)
    record(local, make(local, job))
    assert is_done(local, job, verify=sources)
    sources.write(name, IMAGE[:-1] + b"x")
    assert is_done(local, job)
    assert not is_done(local, job, verify=sources)


def test_damaged_output_of_the_right_size_is_found_when_verified(local: Storage, sources: Storage):
    job = job_of(sources)
    record(local, make(local, job))
    local.write(job.output, IMAGE[:100].ljust(len(IMAGE), b"\0"))
    assert is_done(local, job)
    assert not is_done(local, job, verify=sources)


@pytest.mark.parametrize("change", [{"revision": "v2"}, {"source_bytes": None}])
def test_verifying_forgives_nothing_but_the_times(local: Storage, sources: Storage, change: dict[str, Any]):
    job = job_of(sources)
    record(local, make(local, job))
    assert not is_done(local, job.model_copy(update=change), verify=sources)


def test_missing_image_is_not_done_when_verified(local: Storage, sources: Storage):
    job = job_of(sources)
    record(local, make(local, job))
    sources.delete("a.png")
    assert not is_done(local, job, verify=sources)


def test_table_has_a_typed_column_for_every_field(outputs: Storage):
    record(outputs, failed(a_job(source="b.png", output="b_out.png")), Result.of(a_job(), total_s=1.5))
    ledger = Ledger(outputs)
    ledger.write_parquet(ledger.load().values())
    table = parquet.read_table(BytesIO(outputs.read(PARQUET_FILE, 10**6)))
    assert table.column_names == list(Result.model_fields)
    assert {name: str(table.schema.field(name).type) for name in ("seed", "strength", "mask", "width")} == {
        "seed": "int64",
        "strength": "double",
        "mask": "string",
        "width": "int64",
    }
    assert [Result(**row) for row in table.to_pylist()] == [ledger.load()["a_out.png"], ledger.load()["b_out.png"]]
