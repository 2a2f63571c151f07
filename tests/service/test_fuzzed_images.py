"""Damaged files of every format are decoded or refused, and so are files built to keep a decoder busy."""

from __future__ import annotations

import struct
import time

import pytest

from deployments.images.codec import FORMATS, NotAnImage
from scripts.fuzz_images import GOOD, read
from scripts.fuzzed_images import damaged, originals
from tests.support.images import decode


def tiff_of_strips(side: int, rows: int, count: int) -> bytes:
    """A grey TIFF of `count` strips of `rows` rows, all in the same place of the file."""
    pixels = bytes(side * rows)
    index = 8 + len(pixels)
    fields = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 278: rows}
    arrays = {273: (count, index), 279: (count, index + 4 * count)}
    entries = {tag: (1, value) for tag, value in fields.items()} | arrays
    ifd = b"".join(struct.pack("<HHII", tag, 4, *entries[tag]) for tag in sorted(entries))
    strips = struct.pack(f"<{2 * count}I", *[8] * count, *[len(pixels)] * count)
    head = b"II*\0" + struct.pack("<I", index + len(strips))
    return head + pixels + strips + struct.pack("<H", len(entries)) + ifd + bytes(4)


def test_originals_of_the_fuzzer_are_sound_and_of_every_format() -> None:
    files = originals()
    assert {name.split()[0] for name in files} == {*FORMATS, "mpo"}
    assert {read(data) for data in files.values()} == {"decoded"}


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_decoded_or_refused() -> None:
    outcomes = {read(data) for _, data in damaged(originals(), 300, seed=2)}
    assert outcomes == set(GOOD)


def test_fuzzer_makes_the_same_files_again() -> None:
    files = originals()
    assert list(damaged(files, 20, seed=3)) == list(damaged(files, 20, seed=3))
    assert list(damaged(files, 20, seed=3)) != list(damaged(files, 20, seed=4))


def test_tiff_whose_parts_cover_it_many_times_is_refused_at_once() -> None:
    assert decode(tiff_of_strips(1000, 500, 2)).size == (1000, 1000)
    started = time.process_time()
    with pytest.raises(NotAnImage, match="its parts overlap"):
        decode(tiff_of_strips(1000, 500, 20_000))
    assert time.process_time() - started < 2
