"""The lock of an output folder, so that no two jobs write to it at a time.

A local folder has a lock of the operating system, which ends with its process. Other storages have no locks: there a
job keeps an object and renews it, and an object that is not renewed any more counts for nothing.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from batch.storage.storage import Storage

LOCK_FILE = ".lock"
CLAIMS = ".claims"  # the folder of the objects of a lease
ACQUIRE_S = 0.5  # the holder of a local lock has written its name by then
RENEW_S = 5.0
STALE_S = 30.0  # without a renewal
POLL_S = 0.5
ATTEMPTS = 5  # of jobs that start at the same moment
CLAIM_BYTES = 1000
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class OutputInUse(Exception):
    """Another job writes to the output. The message names its process, its host and its start."""

    def __init__(self, storage: Storage, holder: str) -> None:
        super().__init__(f"{str(storage)!r} is in use by another job: {holder}")


class LockLost(OSError):
    """This job was silent for so long that another one has taken the output over."""


class Lock:
    """A held lock, or the stand-in for one where none is needed."""

    def check(self) -> None:
        """Raises LockLost."""


@contextmanager
def output_lock(storage: Storage, on_wait: Callable[[str], object]) -> Iterator[Lock]:
    """Hold the lock of the output. Raises OutputInUse, or OSError if the output cannot be written to.

    A killed job's lock is free at once on a local folder, and after STALE_S seconds elsewhere. `on_wait` gets a message
    before such a wait.
    """
    if storage.local is not None:
        with suppress(_NoLocks), _file_lock(storage, storage.local):
            yield Lock()
            return
    lease = Lease(storage, on_wait)
    lease.acquire()
    try:
        yield lease
    finally:
        lease.release()


class _NoLocks(Exception):
    """The file system has no locks."""


@contextmanager
def _file_lock(storage: Storage, folder: Path) -> Iterator[None]:
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=ACQUIRE_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise OutputInUse(storage, _holder_of(path)) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        path.unlink(missing_ok=True)
        raise _NoLocks from error
    try:
        path.write_text(_this_job())
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a job that waits for this file then opens a new one
        lock.release()
        if is_new:
            with suppress(OSError):  # results are in it
                folder.rmdir()


class Lease(Lock):
    """An object of the job's own, a claim, whose content changes with each renewal.

    A job holds the lease if it finds no other claim after it has written its own. A claim that stays the same for
    STALE_S seconds is removed: no clocks are compared.
    """

    def __init__(self, storage: Storage, on_wait: Callable[[str], object]) -> None:
        self._storage = storage
        self._claims = storage.folder(CLAIMS)
        self._on_wait = on_wait
        self._name = uuid.uuid4().hex
        self._holder = _this_job()
        self._num_renewals = 0
        self._ended = threading.Event()
        self._is_lost = False
        self._renewing = threading.Thread(target=self._renew, daemon=True, name="lease")

    def acquire(self) -> None:
        """Raises OutputInUse and OSError."""
        for _ in range(ATTEMPTS):
            self._wait_for_others()
            self._write()
            others = self._others()
            if not others:
                self._renewing.start()
                return
            self._claims.delete(self._name)
            time.sleep(random.uniform(0, RENEW_S))  # so that one of several that start at the same moment is first
        raise OutputInUse(self._storage, _holder_in(others.popitem()[1]))

    def release(self) -> None:
        """Remove the claim."""
        self._ended.set()
        self._renewing.join()
        with suppress(OSError):  # it counts for nothing soon
            self._claims.delete(self._name)

    def check(self) -> None:
        if self._is_lost:
            raise LockLost(f"another job has taken over {str(self._storage)!r}")

    def _wait_for_others(self) -> None:
        """Return once all claims of others are gone or removed. Raises OutputInUse as soon as one is renewed."""
        seen = self._others()
        if seen:
            holder = _holder_in(next(iter(seen.values())))
            self._on_wait(f"The output has the mark of another job: {holder}. Waiting at most {STALE_S:g} s for a sign")
        deadline = time.monotonic() + STALE_S
        while seen and time.monotonic() < deadline:
            time.sleep(POLL_S)
            now = self._others()
            for name in seen.keys() & now.keys():
                if now[name] != seen[name]:
                    raise OutputInUse(self._storage, _holder_in(now[name]))
            seen = {name: claim for name, claim in seen.items() if name in now}
        for name in seen:
            self._claims.delete(name)

    def _others(self) -> dict[str, bytes]:
        """The claims of other jobs by name."""
        claims = {}
        with suppress(FileNotFoundError):
            for info in self._claims.files(recursive=False):
                if info.path != self._name:
                    with suppress(FileNotFoundError):  # removed meanwhile
                        claims[info.path] = self._claims.read(info.path, CLAIM_BYTES)
        return claims

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with suppress(OSError):  # the next renewal may succeed
                if not self._claims.exists(self._name):
                    self._is_lost = True
                    return
                self._write()

    def _write(self) -> None:
        self._num_renewals += 1
        self._claims.write(self._name, f"{self._holder}\n{self._num_renewals}".encode())


def _this_job() -> str:
    started = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, started {started}"


def _holder_of(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text()
    return "it is ending now"


def _holder_in(claim: bytes) -> str:
    return claim.decode(errors="replace").partition("\n")[0]
