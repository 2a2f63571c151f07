"""A folder of images or results by path or URI: a few operations, retried after errors that may pass."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

import stamina
from fsspec.core import url_to_fs
from pyarrow import ArrowException
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
from stamina.instrumentation import set_on_retry_hooks

from batch.storage.backends import Backend, FileInfo, FileTooLarge, LocalFolder, RemoteFolder
from batch.storage.uris import BARE_PERCENT, escape_secret, public_address, without_secrets

__all__ = ["FileInfo", "FileTooLarge", "Storage", "StorageError", "open_storage", "overlap"]

ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # fsspec has the others
S3_OPTIONS = {"allow_delayed_open": "true"}  # an image is one PUT, of which a killed writer leaves nothing
URI_CHARACTERS = "%/:@!$&'()*+,;=~"  # what need not be escaped, or is already

PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
PERMANENT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
PERMANENT_WORDS = re.compile(r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH)")


class StorageError(ValueError):
    """A URI that names no storage. The message gives the reason."""


def ignore(problem: str) -> None:
    """Drop the problem of a listing."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, local or remote. Paths are relative to it, with `/`. Picklable and thread-safe.

    An OSError that may pass is retried up to four times within about three seconds. `str()` shows no secrets.
    """

    backend: Backend

    def __str__(self) -> str:
        return str(self.backend)

    @property
    def local(self) -> Path | None:
        """The path of a local folder, else None."""
        return self.backend.root if isinstance(self.backend, LocalFolder) else None

    @property
    def full_address(self) -> str:
        """One address however the folder is spelled: absolute, without links or credentials, with the endpoint."""
        if self.local is not None:
            return str(self.local.resolve())
        endpoint, scheme, *path = self.backend.address_parts()
        return f"{scheme}//{'/'.join(path)}" + (f"?endpoint_override={endpoint}" if endpoint else "")

    def folder(self, path: str) -> Self:
        """The folder `path` of this storage as a storage."""
        return type(self)(self.backend.folder(path))

    def read(self, path: str, max_bytes: int) -> bytes:
        """The whole file. Raises FileTooLarge for more than `max_bytes` bytes, and OSError."""
        return _retry(self.backend.read, path, max_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Make or replace the file, and the folders above it, atomically."""
        _retry(self.backend.write, path, data)

    def exists(self, path: str) -> bool:
        """Whether the file exists."""
        return _retry(self.backend.exists, path)

    def delete(self, path: str) -> None:
        """Remove the file if it exists."""
        _retry(self.backend.delete, path)

    def is_folder(self) -> bool:
        """Whether the folder exists. An object store has every folder above an object."""
        return _retry(self.backend.is_folder)

    def files(self, recursive: bool = True, on_problem: Callable[[str], object] = ignore) -> Iterator[FileInfo]:
        """The visible files, sorted by path. Links are followed. One listing, whatever the number of files.

        Unreadable folders, links to nowhere and links to a folder above themselves are left out and reported to
        `on_problem`. Raises OSError if the storage itself cannot be listed, FileNotFoundError if it does not exist.
        """
        items = _retry(lambda: list(self.backend.files(recursive)))
        for problem in sorted(item for item in items if isinstance(item, str)):
            on_problem(problem)
        yield from sorted((item for item in items if isinstance(item, FileInfo)), key=lambda info: info.path)

    def sweep(self) -> int:
        """Remove the partial files of killed writers and return their number."""
        return self.backend.sweep()


def open_storage(uri: str) -> Storage:
    """The storage at a local path (`photos`, `file:///photos`) or a URI (`s3://bucket/photos?endpoint_override=host`).

    A URI's query is for its file system, as in pyarrow.fs.FileSystem.from_uri. The folder need not exist. Raises
    StorageError.
    """
    uri = escape_secret(uri)
    address, _, query = uri.partition("?")
    scheme, separator, path = address.partition("://")
    if not separator:
        return Storage(LocalFolder(Path(uri).absolute()))  # other processes have other working directories
    if scheme == "file":
        return Storage(LocalFolder(Path(unquote(path.removeprefix("localhost"))).absolute()))
    options = (S3_OPTIONS if scheme == "s3" else {}) | dict(parse_qsl(query))
    public = public_address(uri)
    try:
        if scheme in ARROW_SCHEMES:
            escaped = quote(BARE_PERCENT.sub("%25", address), safe=URI_CHARACTERS)
            filesystem, root = FileSystem.from_uri(f"{escaped}?{urlencode(options, quote_via=quote)}")
        else:
            inner, root = url_to_fs(uri, use_listings_cache=False)
            filesystem = PyFileSystem(FSSpecHandler(inner))
    except (ArrowException, ImportError, OSError, ValueError) as error:
        raise StorageError(f"{public}: {without_secrets(str(error), uri)}") from None  # the cause shows the secrets
    if not root:
        raise StorageError(f"{public}: names no bucket or folder")
    return Storage(RemoteFolder(filesystem, root.rstrip("/"), public, options.get("endpoint_override", "")))


def overlap(first: Storage, second: Storage) -> bool:
    """Whether the two are the same folder, or one lies in the other."""
    parts = zip(first.backend.address_parts(), second.backend.address_parts(), strict=False)
    return type(first.backend) is type(second.backend) and all(one == other for one, other in parts)


def _may_pass(error: Exception) -> bool:
    """Whether the same operation may succeed later."""
    if not isinstance(error, OSError) or isinstance(error, PERMANENT):
        return False
    return error.errno not in PERMANENT_ERRNOS and not PERMANENT_WORDS.search(str(error))


# Four pauses, about three seconds together, randomised so that many workers do not come back at once. pyarrow's S3
# client repeats each HTTP request on its own before that, so no attempt starts after 30 s.
_retry = stamina.RetryingCaller(attempts=5, timeout=30, wait_initial=0.2, wait_max=2, wait_jitter=0.2).on(_may_pass)
set_on_retry_hooks(())  # by default stamina logs each retry, between the progress bars of a terminal
