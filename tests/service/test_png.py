"""What a PNG file carries beside its pixels is no reason to refuse it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from deployments.images.codec import NotAnImage, decode_image
from deployments.images.metadata import read_parameters
from deployments.images.png import MAX_TOTAL_BYTES, MAX_UNPACKED_BYTES, clean_png
from tests.support.images import decode, file_of, gradient, png, png_chunk, rgb_profile

PLAIN = file_of(gradient(), "png")
LARGE_TEXT = zlib.compress(b'{"node":1}' * 200_000)
ZTXT, ITXT = b"workflow\0\0", b"workflow\0\1\0\0\0"
TEXT = png_chunk(b"tEXt", b"parameters\0a fox\nSteps: 20")


def put(data: bytes, chunk: bytes, after: bool = False) -> bytes:
    """The PNG with a chunk before its pixels, or after them."""
    at = data.rindex(b"IEND") - 4 if after else data.index(b"IDAT") - 4
    return data[:at] + chunk + data[at:]


def damaged(kind: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return png_chunk(kind, body)[:-4] + b"\0\0\0\0"


def assert_plain(data: bytes) -> None:
    source = decode_image(data, max_bytes=10**8, max_pixels=10**6)
    np.testing.assert_array_equal(source.pixels, gradient())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("unpacked", [2_000_000, 2 * MAX_UNPACKED_BYTES])
@pytest.mark.parametrize(("kind", "head"), [(b"zTXt", ZTXT), (b"iTXt", ITXT)], ids=["zTXt", "iTXt"])
def test_text_of_any_size_is_no_reason_to_refuse_an_image(kind: bytes, head: bytes, unpacked: int, after: bool) -> None:
    assert_plain(put(PLAIN, png_chunk(kind, head + zlib.compress(bytes(unpacked))), after))


def test_many_large_texts_are_no_reason_to_refuse_an_image() -> None:
    text = png_chunk(b"zTXt", ZTXT + zlib.compress(bytes(MAX_UNPACKED_BYTES - 1), 9))
    count = MAX_TOTAL_BYTES // MAX_UNPACKED_BYTES + 5
    assert_plain(put(PLAIN, text * count))
    assert len(clean_png(put(PLAIN, text * count))) < len(PLAIN) + len(text) * (count - 3)


def test_uncompressed_texts_of_any_size_are_no_reason_to_refuse_an_image() -> None:
    assert_plain(put(PLAIN, png_chunk(b"tEXt", b"a\0" + bytes(MAX_TOTAL_BYTES + 1))))


def test_profile_of_more_than_a_megabyte_is_kept_and_one_beyond_the_bound_left_out() -> None:
    large = rgb_profile() + bytes(1_200_000)
    source = decode(file_of(gradient(), "png", icc_profile=large))
    assert source.icc_profile == large
    larger = file_of(gradient(), "png", icc_profile=rgb_profile() + bytes(MAX_UNPACKED_BYTES))
    assert_plain(larger)
    assert decode(larger).icc_profile is None


ANCILLARY = {
    b"tEXt": b"a\0b",
    b"zTXt": ZTXT + zlib.compress(b"b"),
    b"iTXt": ITXT + zlib.compress(b"b"),
    b"iCCP": b"name\0\0" + zlib.compress(rgb_profile()),
    b"pHYs": b"\0\0\x0b\x13" * 2 + b"\1",
    b"eXIf": b"II*\0\x08\0\0\0\0\0",
    b"tRNS": bytes(6),
    b"gAMA": b"\0\0\xb1\x8f",
    b"cHRM": bytes(32),
    b"acTL": b"\0\0\0\2\0\0\0\0",
    b"quIZ": b"unknown",
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ANCILLARY, ids=bytes.decode)
def test_damage_of_what_is_no_pixel_is_no_reason_to_refuse_an_image(kind: bytes, after: bool) -> None:
    body = ANCILLARY[kind]
    assert_plain(put(PLAIN, damaged(kind, body), after))
    assert_plain(put(PLAIN, png_chunk(kind, b""), after))
    if kind != b"tRNS":
        assert_plain(put(PLAIN, png_chunk(kind, body[:2]), after))
        assert_plain(put(PLAIN, png_chunk(kind, body + b"\xff" * 50), after))


@pytest.mark.parametrize("method", [b"\1", b"\xff"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"], ids=bytes.decode)
def test_unknown_compression_of_a_text_is_no_reason_to_refuse_an_image(kind: bytes, method: bytes) -> None:
    assert_plain(put(PLAIN, png_chunk(kind, b"name\0" + method + LARGE_TEXT)))
    assert_plain(put(PLAIN, png_chunk(kind, b"name\0\0no stream")))


def test_file_cut_off_after_its_pixels_is_whole() -> None:
    end = PLAIN.rindex(b"IEND") - 4
    assert_plain(PLAIN[:end])
    assert_plain(PLAIN[:end] + TEXT[:10])


def test_file_cut_off_within_its_pixels_is_refused() -> None:
    with pytest.raises(NotAnImage, match="truncated"):
        decode(PLAIN[: len(PLAIN) // 2])


def test_damaged_header_is_named() -> None:
    with pytest.raises(NotAnImage, match="PNG image is damaged: the checksum of its IHDR is wrong"):
        decode(PLAIN[:20] + b"\1" + PLAIN[21:])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_settings_are_found_beside_damaged_and_large_chunks(after: bool) -> None:
    data = put(PLAIN, damaged(b"tEXt", b"parameters\0no") + png_chunk(b"zTXt", ZTXT + LARGE_TEXT), after)
    assert read_parameters(put(data, TEXT, after)) == "a fox\nSteps: 20"


def test_first_frame_of_an_animation_is_read() -> None:
    other = Image.new("RGB", (48, 32))
    assert_plain(file_of(gradient(), "png", save_all=True, append_images=[other]))


def test_chunks_without_number_are_left_out() -> None:
    many = put(PLAIN, png_chunk(b"tEXt", b"a\0") * 50_000 + png_chunk(b"IDAT", b"") * 50_000)
    assert_plain(many)
    assert len(clean_png(many)) < 50_000


def test_pixels_in_many_small_chunks_are_read() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in gradient())
    pixels = zlib.compress(rows)
    chunks = b"".join(png_chunk(b"IDAT", pixels[at : at + 1]) for at in range(len(pixels)))
    whole = png(48, 32, 8, 2, rows)
    at, end = whole.index(b"IDAT") - 4, whole.rindex(b"IEND") - 4
    assert_plain(whole[:at] + chunks + whole[end:])
