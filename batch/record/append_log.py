"""A durable log of lines: a local file that grows, or a series of objects on remote storage.

A line counts once its newline is written. What a killed program left after the last newline is ignored and cut off.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from batch.storage.storage import Storage

SEGMENTS = ".results"
SEGMENT_NAME = re.compile(r"\d{8}-[0-9a-f]{32}\.jsonl")
SEGMENT_BYTES = 1024**2
SAVE_LINES = 200
SAVE_S = 5.0
READERS = 8


class Log(Protocol):
    """One program writes at a time. Thread-safe. Every method may raise OSError."""

    def lines(self) -> Iterator[bytes]:
        """All lines, oldest first, without their newlines."""

    def append(self, line: bytes) -> None:
        """Add a line that holds no newline."""

    def is_one_file(self) -> bool:
        """Whether all lines lie in one file."""

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace all that the last `lines` returned by these lines, in one file."""

    def close(self) -> None:
        """Save what is not yet saved. A later append opens the log again."""


def open_log(storage: Storage, name: str) -> Log:
    """The log in the file `name`."""
    return ObjectLog(storage, name) if storage.local is None else FileLog(storage, storage.local / name)


class FileLog:
    """A log in a local file. The system has each line once it is appended: only a crash of the machine loses it."""

    def __init__(self, storage: Storage, path: Path) -> None:
        self._storage = storage
        self._path = path
        self._file: int | None = None
        self._lock = threading.Lock()

    def lines(self) -> Iterator[bytes]:
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            yield from (line[:-1] for line in file if line.endswith(b"\n"))

    def append(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        with self._lock:
            if self._file is None:
                self._file = self._open()
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                self._close()  # opening it again cuts off what was written of the line
                raise

    def is_one_file(self) -> bool:
        return True

    def rewrite(self, lines: Iterable[bytes]) -> None:
        self.close()
        self._storage.write(self._path.name, _joined(lines))

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        if os.fstat(file).st_size:
            with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1
            os.truncate(file, end)
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class ObjectLog:
    """A log in numbered segments beside the file, as objects cannot grow. The last segment is written as a whole.

    It is written every 200 lines or five seconds after a line, whichever is sooner. A killed program loses the rest.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._segments = storage.folder(SEGMENTS)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._number: int | None = None  # of the last segment; chosen when it is first saved
        self._writer = uuid.uuid4().hex  # two writers never share a segment, even of one number
        self._data = bytearray()
        self._num_unsaved = 0
        self._read: list[str] = []

    def lines(self) -> Iterator[bytes]:
        with self._lock:
            self._save()
        with suppress(FileNotFoundError):
            yield from _complete_lines(self._storage.read(self._name, sys.maxsize))
        self._read = self._segment_names()
        with ThreadPoolExecutor(READERS) as pool:
            for data in pool.map(partial(self._segments.read, max_bytes=sys.maxsize), self._read):
                yield from _complete_lines(data)

    def append(self, line: bytes) -> None:
        with self._lock:
            self._data += line + b"\n"
            self._num_unsaved += 1
            if self._num_unsaved >= SAVE_LINES:
                self._save()
            elif self._timer is None:
                self._timer = threading.Timer(SAVE_S, self._save_later)
                self._timer.daemon = True
                self._timer.start()

    def is_one_file(self) -> bool:
        return not self._segment_names()

    def rewrite(self, lines: Iterable[bytes]) -> None:
        self.close()
        self._storage.write(self._name, _joined(lines))
        for name in self._read:  # oldest first: those left are read after the file, and must end as it does
            self._segments.delete(name)

    def close(self) -> None:
        with self._lock:
            self._save()
            self._number = None
            self._data.clear()

    def _save_later(self) -> None:
        with self._lock, suppress(OSError):  # nothing is lost: the next save raises it again
            self._save()

    def _save(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._num_unsaved:
            return
        if self._number is None:
            self._number = max((int(name.partition("-")[0]) for name in self._segment_names()), default=0) + 1
        self._segments.write(f"{self._number:08}-{self._writer}.jsonl", bytes(self._data))
        self._num_unsaved = 0
        if len(self._data) >= SEGMENT_BYTES:
            self._number += 1
            self._data.clear()

    def _segment_names(self) -> list[str]:
        try:
            names = [info.path for info in self._segments.files(recursive=False)]
        except FileNotFoundError:
            return []
        return [name for name in names if SEGMENT_NAME.fullmatch(name)]


def _complete_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
