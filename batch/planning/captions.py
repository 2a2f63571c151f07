"""Captions: the text file beside an image, `photo.txt` for `photo.jpg`, is its prompt."""

from __future__ import annotations

from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from posixpath import splitext

from batch.planning.manifest import Row
from batch.storage.storage import FileTooLarge, Storage

MAX_CAPTION_BYTES = 64 * 1024
CAPTION_THREADS = 16  # they wait for the storage, not for the processor

Captions = dict[str, str | Exception]


def caption_path(image: str) -> str:
    """Where the caption of an image lies: photo.jpg -> photo.txt."""
    return splitext(image)[0] + ".txt"


def read_captions(storage: Storage, rows: Iterable[Row], files: Container[str]) -> Captions:
    """The caption of each image that has one and gets no prompt from its row, or the error of reading it."""
    images = [row.image for row in rows if row.overrides.prompt is None and caption_path(row.image) in files]
    paths = list(dict.fromkeys(map(caption_path, images)))
    with ThreadPoolExecutor(CAPTION_THREADS) as pool:
        texts = dict(zip(paths, pool.map(lambda path: _read(storage, path), paths), strict=True))
    return {image: texts[caption_path(image)] for image in images}


def _read(storage: Storage, path: str) -> str | Exception:
    try:
        return storage.read(path, MAX_CAPTION_BYTES).decode("utf-8-sig").strip()
    except (OSError, FileTooLarge, ValueError) as error:
        return error
