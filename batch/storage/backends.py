"""The two kinds of storage: a folder of the operating system, and a folder that pyarrow or fsspec opens."""

from __future__ import annotations

import fcntl
import mimetypes
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, Self
from urllib.parse import unquote

from pyarrow.fs import FileSelector, FileSystem, FileType

Identity = tuple[int, int]  # of a folder: its device and inode

PARTIAL = re.compile(r"\.[0-9a-f]{32}\.part")


class FileTooLarge(ValueError):
    """The file has more bytes than its reader allows."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a listing: `path` relative to the storage, `size` in bytes, `mtime_ns` 0 if the storage has none."""

    path: str
    size: int
    mtime_ns: int


class Backend(Protocol):
    """The operations of one kind of storage, each without retries. See Storage. Each may raise OSError."""

    def folder(self, path: str) -> Self: ...

    def address_parts(self) -> tuple[str, ...]:
        """The address as a path's parts, which are the first parts of the address of every folder inside."""

    def read(self, path: str, max_bytes: int) -> bytes: ...

    def write(self, path: str, data: bytes) -> None: ...

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None: ...

    def is_folder(self) -> bool: ...

    def files(self, recursive: bool) -> Iterator[FileInfo | str]:
        """The visible files in any order, and the message of each problem."""

    def sweep(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A local or mounted folder."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def folder(self, path: str) -> Self:
        return replace(self, root=self.root / path)

    def address_parts(self) -> tuple[str, ...]:
        return self.root.resolve().parts

    def read(self, path: str, max_bytes: int) -> bytes:
        with (self.root / path).open("rb") as file:
            _check_size(os.fstat(file.fileno()).st_size, max_bytes)
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                _try_lock(file)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def is_folder(self) -> bool:
        return self.root.is_dir()

    def files(self, recursive: bool) -> Iterator[FileInfo | str]:
        todo: list[tuple[str, tuple[Identity, ...]]] = [("", (_identity(self.root.stat()),))]
        while todo:
            folder, above = todo.pop()
            try:
                entries = self._visible(folder)
            except OSError as error:
                if not folder:
                    raise
                yield _problem(folder, error.strerror)
                continue
            for path, entry in entries:
                try:
                    status = entry.stat()
                except OSError as error:
                    yield _problem(path, error.strerror)
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield FileInfo(path, status.st_size, status.st_mtime_ns)
                elif recursive and stat.S_ISDIR(status.st_mode):
                    if _identity(status) in above:
                        yield _problem(path, "a link to a folder above it, not followed")
                    else:
                        todo.append((path + "/", (*above, _identity(status))))

    def _visible(self, folder: str) -> list[tuple[str, os.DirEntry[str]]]:
        with os.scandir(self.root / folder) as entries:
            return [(folder + entry.name, entry) for entry in entries if not entry.name.startswith(".")]

    def sweep(self) -> int:
        left = [path for path in self.root.rglob(".*.part") if PARTIAL.fullmatch(path.name)]
        return sum(_remove_unless_written(path) for path in left)


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A prefix of an object store, or a folder of another kind of server.

    `root` is the path on `filesystem`. `address` is for messages and holds no secrets. `endpoint` distinguishes
    servers with the same addresses.
    """

    filesystem: FileSystem = field(repr=False)
    root: str
    address: str
    endpoint: str = ""

    def __str__(self) -> str:
        return self.address

    def folder(self, path: str) -> Self:
        return replace(self, root=f"{self.root}/{path}", address=f"{self.address}/{path}")

    def address_parts(self) -> tuple[str, ...]:
        return (self.endpoint, *PurePosixPath(unquote(self.address)).parts)

    def read(self, path: str, max_bytes: int) -> bytes:
        with self.filesystem.open_input_file(f"{self.root}/{path}") as file:
            _check_size(file.size(), max_bytes)
            data: bytes = file.read()
        return data

    def write(self, path: str, data: bytes) -> None:
        target = f"{self.root}/{path}"
        try:
            self._put(target, data)
        except FileNotFoundError:  # a server with real folders
            self.filesystem.create_dir(str(PurePosixPath(target).parent), recursive=True)
            self._put(target, data)

    def _put(self, target: str, data: bytes) -> None:
        content_type = mimetypes.guess_type(target)[0] or "application/octet-stream"
        metadata = {"Content-Type": content_type}  # without it browsers save the file and do not show it
        with self.filesystem.open_output_stream(target, compression=None, metadata=metadata) as file:
            file.write(data)

    def exists(self, path: str) -> bool:
        info: Any = self.filesystem.get_file_info(f"{self.root}/{path}")
        return bool(info.type == FileType.File)

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.root}/{path}")

    def is_folder(self) -> bool:
        info: Any = self.filesystem.get_file_info(self.root)
        return bool(info.type == FileType.Directory)

    def files(self, recursive: bool) -> Iterator[FileInfo | str]:
        above = self.root.strip("/") + "/"
        try:
            infos = self.filesystem.get_file_info(FileSelector(self.root, recursive=recursive))
        except OSError as error:
            if "AWS Error NO_SUCH_BUCKET" in str(error):
                raise FileNotFoundError(str(error)) from error
            raise
        for info in infos:
            path = info.path.lstrip("/").removeprefix(above)
            if info.type == FileType.File and not path.startswith(".") and "/." not in path:
                yield FileInfo(path, info.size or 0, info.mtime_ns or 0)

    def sweep(self) -> int:
        return 0  # an object exists only once it is complete


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise FileTooLarge(f"the file has {num_bytes} bytes; at most {max_bytes} are allowed")


def _try_lock(file: BinaryIO) -> bool:
    """Lock the file while it is open, and return whether nobody else has. File systems without locks count as free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_unless_written(part: Path) -> bool:
    with suppress(FileNotFoundError), part.open("rb") as file:
        if _try_lock(file):
            part.unlink()
            return True
    return False


def _problem(path: str, why: str | None) -> str:
    return f"{ascii(path.rstrip('/'))}: {why}"


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
