"""Folders and files that options name by a local path or a URI."""

from __future__ import annotations

from collections.abc import Callable

from batch.storage.storage import FileTooLarge, Storage, StorageError, open_storage
from deployments.engine.errors import InvalidRequest

MAX_MANIFEST_BYTES = 1024**3


def read_file(uri: str, param: str) -> tuple[str, bytes]:
    """The name and the content of the file that the option `param` names. Raises InvalidRequest."""
    folder, name = split_uri(uri)
    storage = open_folder(folder, param)
    try:
        return name, storage.read(name, MAX_MANIFEST_BYTES)
    except (OSError, FileTooLarge) as error:
        raise InvalidRequest(f"{name!r} in {str(storage)!r}: {error}", param) from error


def open_folder(uri: str, param: str = "input") -> Storage:
    """The storage that the option `param` names. Raises InvalidRequest."""
    try:
        return open_storage(uri)
    except StorageError as error:
        raise InvalidRequest(str(error), param) from error


def roots_of(storage: Storage) -> list[str]:
    """The prefixes of absolute paths into a folder. The first one is for messages."""
    paths = [str(storage)] if storage.local is None else [storage.local.absolute(), storage.local.resolve()]
    return [f"{path}".rstrip("/") + "/" for path in paths]


def path_of(uri: str) -> str:
    """A URI without its query; a local path unchanged, as `?` is an ordinary character there."""
    return uri.partition("?")[0] if "://" in uri else uri


def split_uri(uri: str, is_rest: Callable[[str], bool] = lambda part: False) -> tuple[str, str]:
    """Split into the folder, with the URI's query, and the rest.

    The rest starts at the first part of the path that `is_rest`, or else at the last part.
    """
    path = path_of(uri)
    parts = path.split("/")
    cut = next((index for index, part in enumerate(parts) if is_rest(part)), len(parts) - 1)
    folder = "/".join(parts[:cut]) or ("/" if cut else ".")
    return folder + uri.removeprefix(path), "/".join(parts[cut:])
