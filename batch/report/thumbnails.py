"""Thumbnails of the sources and outputs, for the report, in chunk files beside the results.

A chunk is a script that the report loads when it shows one of the chunk's rows. A written chunk never changes. The
index holds the chunk of every row, so that a resumed job makes no thumbnail again.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import islice
from typing import NamedTuple

from PIL import Image, ImageCms

from batch.record.results import Result
from batch.storage.storage import Storage
from deployments.engine.request import Pixels
from deployments.images.codec import PILLOW_MAX_PIXELS, ImageError, decode_image

FOLDER = "report_files"
INDEX = f"{FOLDER}/index.json"
SIDE = 256
QUALITY = 80
PAIRS_PER_CHUNK = 32
CHUNKS_PER_INDEX = 64  # a killed job makes the thumbnails of at most so many chunks again
MAX_BYTES = 1024**3
THREADS = 8

ChunkIndex = tuple[int, int]  # a chunk's number, and a position in the chunk


class Pair(NamedTuple):
    """Two JPEG files of one shape; `before` is empty where the source is gone."""

    before: bytes
    after: bytes


def thumbnail(pixels: Pixels, icc_profile: bytes | None = None) -> bytes:
    """A JPEG in sRGB of an image, (height, width, 3) uint8, fitted into 256 x 256 px and never enlarged."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if icc_profile:
        with suppress(ImageCms.PyCMSError, OSError):  # a broken profile costs exact colours only
            srgb = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, BytesIO(icc_profile), srgb) or image
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


class Thumbnails:
    """The thumbnails of one output folder. Not thread-safe.

    Call `add` for each result, or `fill` at the end, and then `close`, which writes the last ones.
    """

    def __init__(self, outputs: Storage) -> None:
        self._outputs = outputs
        self._chunks = _read_index(outputs)
        self._indexed = len(self._chunks)
        self._indices = {key: (i, k) for i, keys in enumerate(self._chunks) for k, key in enumerate(keys)}
        self._pending: dict[str, Pair] = {}

    def chunk_index(self, result: Result) -> ChunkIndex | None:
        """Where the result's thumbnails are; None if there are none."""
        return self._indices.get(_key(result))

    def add(self, result: Result, pair: Pair) -> None:
        """Keep the thumbnails of a finished result, once for each output and digest."""
        key = _key(result)
        if key in self._indices:
            return
        self._indices[key] = len(self._chunks), len(self._pending)
        self._pending[key] = pair
        if len(self._pending) == PAIRS_PER_CHUNK:
            self._write_chunk()

    def fill(self, results: Iterable[Result], inputs: Storage) -> None:
        """Make the missing thumbnails from the images themselves. An output that cannot be read gets none."""
        missing = (result for result in results if result.error_type is None and self.chunk_index(result) is None)
        with ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(missing, PAIRS_PER_CHUNK)):
                for result, pair in zip(some, pool.map(partial(_make, inputs, self._outputs), some), strict=True):
                    if pair is not None:
                        self.add(result, pair)

    def close(self) -> None:
        """Write the last chunk and the index."""
        if self._pending:
            self._write_chunk()
        if self._indexed < len(self._chunks):
            self._write_index()

    def num_chunks(self) -> int:
        """How many chunks are written."""
        return len(self._chunks)

    def read(self, chunk: int) -> list[Pair]:
        """A written chunk's pairs. Raises OSError or ValueError when it is gone or damaged."""
        return [Pair(b64decode(before), b64decode(after)) for before, after in json.loads(self.read_json(chunk))]

    def read_json(self, chunk: int) -> str:
        """A written chunk as a JSON list of pairs in base64."""
        script = self._outputs.read(_path(chunk), MAX_BYTES).decode()
        return script[script.index("[") : script.rindex("]") + 1]

    def _write_chunk(self) -> None:
        pairs = [[b64encode(side).decode() for side in pair] for pair in self._pending.values()]
        number = len(self._chunks)
        script = f"reportChunk({number}, {json.dumps(pairs, separators=(',', ':'))})\n"
        self._outputs.write(_path(number), script.encode())
        self._chunks.append(list(self._pending))
        self._pending.clear()
        if len(self._chunks) - self._indexed >= CHUNKS_PER_INDEX:
            self._write_index()

    def _write_index(self) -> None:
        self._outputs.write(INDEX, json.dumps(self._chunks, separators=(",", ":")).encode())
        self._indexed = len(self._chunks)


def _read_index(outputs: Storage) -> list[list[str]]:
    """The keys of each chunk; none where the index is missing or damaged."""
    try:
        chunks = json.loads(outputs.read(INDEX, MAX_BYTES))
    except (FileNotFoundError, ValueError):
        return []
    return chunks if isinstance(chunks, list) and all(isinstance(keys, list) for keys in chunks) else []


def _path(chunk: int) -> str:
    return f"{FOLDER}/{chunk}.js"


def _key(result: Result) -> str:
    return hashlib.sha256(f"{result.output}\n{result.digest}".encode()).hexdigest()[:16]


def _make(inputs: Storage, outputs: Storage, result: Result) -> Pair | None:
    after = _small(partial(outputs.read, str(result.output)))
    return None if after is None else Pair(_small(partial(inputs.read, result.source)) or b"", after)


def _small(read: Callable[[int], bytes]) -> bytes | None:
    try:
        image = decode_image(read(MAX_BYTES), max_bytes=MAX_BYTES, max_pixels=PILLOW_MAX_PIXELS)
    except (OSError, ValueError, ImageError):
        return None
    return thumbnail(image.pixels, image.icc_profile)
