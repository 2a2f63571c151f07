"""A JPEG without its end marker is served if all of its pixels are there, and else says that it ends too early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.images.codec import NotAnImage
from deployments.images.jpeg import MAX_SCANS
from tests.support.images import decode, file_of, gradient

END = b"\xff\xd9"
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 1},
    "fine": {"quality": 100, "subsampling": 0},
}


def photo(seed: int, **options: Any) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (32, 48, 3))
    return file_of(np.clip(gradient() + noise, 0, 255).astype(np.uint8), "jpeg", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0\0", b"\xff\0\0", bytes(500)])
def test_jpeg_that_lacks_only_its_end_is_served(kind: str, end: bytes) -> None:
    for seed in range(4):
        whole = photo(seed, **KINDS[kind])
        np.testing.assert_array_equal(decode(whole[:-2] + end).pixels, decode(whole).pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_grey_or_cmyk_jpeg_that_lacks_only_its_end_is_served(kind: str, mode: str) -> None:
    whole = file_of(Image.fromarray(gradient()).convert(mode), "jpeg", **KINDS[kind])
    np.testing.assert_array_equal(decode(whole[:-2]).pixels, decode(whole).pixels)


@pytest.mark.parametrize("lost", [4, 6, 10, 50, 250])
@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_that_lacks_pixels_says_that_it_ends_too_early(kind: str, lost: int) -> None:
    for seed in range(4):
        for end in (b"", b"\xff", bytes(500)):
            cut = photo(seed, **KINDS[kind])[:-lost].rstrip(b"\0")
            with pytest.raises(NotAnImage, match="JPEG image is damaged: the file ends too early"):
                decode(cut + end)


def test_jpeg_cut_off_at_any_byte_raises_nothing_but_image_errors() -> None:
    whole = photo(0, progressive=True)
    for length in range(2, len(whole) - 2):
        with pytest.raises(NotAnImage):
            decode(whole[:length])


def test_progressive_jpeg_that_lacks_a_scan_says_that_it_ends_too_early() -> None:
    whole = photo(0, progressive=True)
    for scans in range(1, whole.count(b"\xff\xda")):
        cut = whole
        for _ in range(scans):
            cut = cut[: cut.rindex(b"\xff\xda")]
        with pytest.raises(NotAnImage, match="JPEG image is damaged: the file ends too early"):
            decode(cut)


def test_phone_jpeg_with_a_second_image_that_is_cut_off_is_served() -> None:
    whole = file_of(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    np.testing.assert_array_equal(decode(whole[:-20]).pixels, decode(whole).pixels)


def test_thumbnail_in_a_jpeg_does_not_end_it() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" + END.decode("latin-1")
    whole = file_of(gradient(), "jpeg", exif=exif.tobytes() + file_of(gradient(8, 8), "jpeg"))
    np.testing.assert_array_equal(decode(whole[:-2]).pixels, decode(whole).pixels)


def test_jpeg_of_more_scans_than_any_encoder_writes_is_refused() -> None:
    whole = photo(0, progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert decode(whole[:-2] + scan * 10 + END).size == (48, 32)
    with pytest.raises(NotAnImage, match=f"more than {MAX_SCANS} scans"):
        decode(whole[:-2] + scan * MAX_SCANS + END)
