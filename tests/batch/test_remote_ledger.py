"""The record of results on an S3 server, where a file cannot grow: segments, merged in the end."""

from __future__ import annotations

import threading

import pytest

from batch.record.append_log import SAVE_LINES, SEGMENT_BYTES, SEGMENTS
from batch.record.ledger import Ledger
from batch.record.results import Result
from batch.storage.storage import Storage
from tests.support.ledgers import a_job, failed, lines_of, record
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.service


def test_remote_results_are_there_before_the_ledger_is_closed(remote: Storage):
    ledger = Ledger(remote)
    for number in range(SAVE_LINES + 1):
        ledger.append(Result.of(a_job(output=f"{number}.png")))
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    saved = list(remote.folder(SEGMENTS).files())
    assert [remote.folder(SEGMENTS).read(info.path, 10**6).count(b"\n") for info in saved] == [SAVE_LINES]
    for timer in timers:
        timer.join(timeout=60)  # the last one is put within five seconds
    assert len(Ledger(remote).load()) == SAVE_LINES + 1


def test_remote_ledger_is_few_objects_however_often_it_is_saved(remote: Storage):
    ledger = Ledger(remote)
    results = [Result.of(a_job(output=f"{number}.png"), error="x" * 2000) for number in range(6 * SAVE_LINES)]
    for result in results:
        ledger.append(result)
    num_bytes = sum(len(result.model_dump_json()) for result in results)
    segments = list(remote.folder(SEGMENTS).files())
    assert 2 <= len(segments) <= num_bytes / SEGMENT_BYTES + 1
    assert Ledger(remote).load() == {str(result.output): result for result in results}


def test_remote_ledger_that_was_killed_goes_on(remote: Storage):
    killed, later = Ledger(remote), Ledger(remote)
    killed.append(failed(a_job()))
    assert killed.load().keys() == {"a_out.png"}  # which saves it
    later.append(Result.of(a_job(), attempts=2))
    later.append(Result.of(a_job(output="b.png")))
    assert {name: result.error_type for name, result in later.load().items()} == {"a_out.png": None, "b.png": None}
    later.close(later.read())
    assert len(lines_of(remote)) == 2
    assert list(remote.folder(SEGMENTS).files()) == []


def test_remote_ledger_survives_a_kill_while_it_is_merged(remote: Storage):
    first, second = Ledger(remote), Ledger(remote)
    first.append(failed(a_job()))
    first.load()
    again = Result.of(a_job(), attempts=2)
    second.append(again)
    second.load()
    segments = {info.path: remote.folder(SEGMENTS).read(info.path, 10**6) for info in remote.folder(SEGMENTS).files()}
    second.close(second.read())
    oldest, newest = sorted(segments)
    for left in ([oldest, newest], [newest]):  # they are deleted oldest first
        for name in left:
            remote.folder(SEGMENTS).write(name, segments[name])
        assert Ledger(remote).load() == {"a_out.png": again}
        record(remote)
        assert Ledger(remote).load() == {"a_out.png": again}


def test_busy_server_loses_no_result(s3: S3Server, remote: Storage):
    ledger = Ledger(remote)
    s3.failure_rate = 0.2
    try:
        for number in range(3 * SAVE_LINES):
            ledger.append(Result.of(a_job(output=f"{number}.png")))
        ledger.close(ledger.read())
        assert len(Ledger(remote).load()) == 3 * SAVE_LINES
    finally:
        s3.failure_rate = 0.0
