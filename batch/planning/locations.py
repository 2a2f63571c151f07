"""Folders and files that options name by a local path or a URI."""

from __future__ import annotations

import glob
import re
from urllib.parse import unquote

from batch.storage.storage import FileTooLarge, Storage, StorageError, open_storage
from batch.storage.uris import escape_secret
from deployments.engine.errors import InvalidRequest

MAX_MANIFEST_BYTES = 1024**3
ANY_FOLDERS = "**"  # the glob of everything below a folder
WILDCARD = re.compile(r"[*?[]")
ESCAPED = re.compile(r"(%[0-9A-Fa-f]{2})+")


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


def split_uri(uri: str) -> tuple[str, str]:
    """Split into the folder, with the URI's query, and the last part of the path."""
    uri = escape_secret(uri)
    parts = path_of(uri).split("/")
    return _split_at(len(parts) - 1, parts, uri)


def split_glob(uri: str) -> tuple[str, str]:
    """Split into the folder and the glob below it, ANY_FOLDERS if there is none.

    A part of the path that is a folder by that very name is no glob. In the glob of a URI an escaped character, such
    as `%5B`, is the character itself. Raises InvalidRequest if the storage does not answer.
    """
    uri = escape_secret(uri)
    parts = path_of(uri).split("/")
    for index, part in enumerate(parts):
        if WILDCARD.search(part) and not is_folder(_split_at(index + 1, parts, uri)[0]):
            folder, pattern = _split_at(index, parts, uri)
            return folder, ESCAPED.sub(_literal, pattern) if "://" in uri else pattern
    return uri, ANY_FOLDERS


def is_folder(uri: str) -> bool:
    """Whether there is a folder of this very name. Raises InvalidRequest."""
    storage = open_folder(uri)
    try:
        return storage.is_folder()
    except OSError as error:
        raise InvalidRequest(f"{storage}: {error}", "input") from error


def _split_at(index: int, parts: list[str], uri: str) -> tuple[str, str]:
    folder = "/".join(parts[:index]) or ("/" if index else ".")
    return folder + uri.removeprefix(path_of(uri)), "/".join(parts[index:])


def _literal(escaped: re.Match[str]) -> str:
    return glob.escape(unquote(escaped.group()))
