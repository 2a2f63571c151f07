"""One job at a time writes to an output folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.storage import lock
from batch.storage.lock import LockLost, OutputInUse, output_lock
from batch.storage.storage import Storage, open_storage
from deployments.config import REPO_ROOT
from tests.support.service import eventually

EVERY_STORAGE = ["local", "local without locks", pytest.param("s3", marks=pytest.mark.service)]
HOLD = """
import sys, time
from batch.storage.lock import output_lock
from batch.storage.storage import open_storage
with output_lock(open_storage(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


@pytest.fixture(params=EVERY_STORAGE)
def outputs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 1.0)
    monkeypatch.setattr(lock, "POLL_S", 0.02)
    if request.param == "local without locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    remote: Storage | None = request.getfixturevalue("remote") if request.param == "s3" else None
    return remote or open_storage(str(tmp_path / "out"))


def try_to_hold(outputs: Storage) -> None:
    with output_lock(outputs, print):
        pass


def test_second_job_is_refused_and_told_who_holds_the_output(outputs: Storage):
    with output_lock(outputs, print), pytest.raises(OutputInUse) as refused:
        try_to_hold(outputs)
    assert f"process {os.getpid()} on {socket.gethostname()}, started 20" in str(refused.value)
    assert str(outputs) in str(refused.value)


def test_released_lock_leaves_nothing_behind(outputs: Storage):
    for _ in range(2):
        with output_lock(outputs, print):
            outputs.write("a.png", b"x")
    root = outputs.local
    left = [info.path for info in outputs.files()] if root is None else [p for p in root.rglob("*") if p.is_file()]
    assert [Path(path).name for path in left] == ["a.png"]


def test_refused_output_that_was_not_there_is_not_made(tmp_path: Path):
    try_to_hold(open_storage(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_of_jobs_that_start_together_one_holds_the_output(outputs: Storage):
    start, done = threading.Barrier(4), threading.Event()
    held, refused = [], []

    def job() -> None:
        start.wait()
        try:
            with output_lock(outputs, str):
                held.append(1)
                done.wait()
        except OutputInUse as error:
            refused.append(error)

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for each in jobs:
        each.start()
    eventually(lambda: len(refused) == 3)
    done.set()
    for each in jobs:
        each.join()
    assert len(held) == 1


@pytest.fixture
def held_by_another() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that holds the lock of a URI."""
    started: list[subprocess.Popen[str]] = []

    def start(uri: str) -> subprocess.Popen[str]:
        holder = subprocess.Popen([sys.executable, "-c", HOLD, uri], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
        started.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


@pytest.mark.subprocess
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_next_job_takes_the_lock_of_a_killed_one(
    tmp_path: Path, held_by_another: Callable[[str], subprocess.Popen[str]], number: signal.Signals
):
    holder = held_by_another(str(tmp_path))
    with pytest.raises(OutputInUse, match=f"process {holder.pid} on"):
        try_to_hold(open_storage(str(tmp_path)))
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / lock.LOCK_FILE).exists()
    try_to_hold(open_storage(str(tmp_path)))


@pytest.mark.parametrize("outputs", EVERY_STORAGE[1:], indirect=True)
def test_lease_that_is_not_renewed_is_taken_over_and_its_holder_learns_it(outputs: Storage):
    waits: list[str] = []
    silent = lock.Lease(outputs, print)
    silent._write()
    with output_lock(outputs, waits.append) as held:
        assert len(waits) == 1
        assert f"process {os.getpid()} on" in waits[0]
        held.check()
        silent._renew()  # awake again
        with pytest.raises(LockLost):
            silent.check()
