"""What a viewer shows is what is read: profiles, deep grey, inverted scans and alpha that nobody filled."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from deployments.images.codec import decode_image
from tests.support.images import (
    cmyk_profile,
    decode,
    exif,
    file_of,
    gradient,
    large_cmyk_profile,
    linear_grey_profile,
    png,
    png_chunk,
    rgb_profile,
)

INK = (137, 209, 195)


def bmp(alpha: int) -> bytes:
    """`gradient()` as a 32-bit BMP with an alpha mask (BITMAPV4HEADER), which Pillow does not write."""
    height, width = gradient().shape[:2]
    rows = np.dstack([gradient()[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks)
    offset = 14 + 108
    return struct.pack("<2sIII", b"BM", offset + len(rows), 0, offset) + header.ljust(108, b"\0") + rows


def tiff(values: np.ndarray, photometric: int, order: Literal["<", ">"] = "<") -> bytes:
    """A grey TIFF of one strip. `photometric` is 0 where 0 is white, and 1 where it is black."""
    height, width = values.shape
    bits = 8 * values.itemsize
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    short, long = 3, 4
    entries = [
        struct.pack(order + "HHIH2x", tag, short, 1, value)
        if tag not in (273, 279)
        else struct.pack(order + "HHII", tag, long, 1, value)
        for tag, value in tags.items()
    ]
    if values.dtype.kind == "f":
        entries.append(struct.pack(order + "HHIH2x", 339, short, 1, 3))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    ifd = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return magic + struct.pack(order + "I", 8 + len(data)) + data + ifd


@pytest.mark.parametrize("alpha", [0, 255])
def test_bmp_whose_alpha_nobody_filled_is_opaque(alpha: int) -> None:
    source = decode(bmp(alpha))
    np.testing.assert_array_equal(source.pixels, gradient())
    assert source.alpha is None or source.alpha.min() == 255


def test_bmp_with_alpha_keeps_it() -> None:
    source = decode(bmp(128))
    assert source.alpha is not None
    assert (source.alpha == 128).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_in_which_0_is_white_is_no_negative(order: Literal["<", ">"]) -> None:
    values = np.tile(np.array([0, 65535, 32768], np.uint16), (64, 21))
    inverted = decode(tiff(values, 0, order)).pixels
    np.testing.assert_array_equal(inverted, decode(tiff(65535 - values, 1, order)).pixels)
    assert inverted[0, :3].tolist() == [[255] * 3, [0] * 3, [127] * 3]


def test_float_tiff_in_which_0_is_white_is_no_negative() -> None:
    values = np.tile(np.array([0, 1, 0.25], np.float32), (8, 1))
    assert decode(tiff(values, 0)).pixels[0, :, 0].tolist() == [255, 0, 191]


@pytest.mark.parametrize("photometric", [0, 1])
def test_8_bit_tiff_is_read_by_its_photometric_interpretation(photometric: int) -> None:
    values = np.tile(np.array([0, 255, 128], np.uint8), (8, 1))
    shown = 255 - values if photometric == 0 else values
    np.testing.assert_array_equal(decode(tiff(values, photometric)).pixels[..., 0], shown)


@pytest.mark.parametrize("format", ["jpeg", "tiff"])
@pytest.mark.parametrize(
    ("profile", "cyan"),
    [(cmyk_profile(INK) + bytes(1_100_000), (254, 0, 5)), (large_cmyk_profile(INK), (246, 30, 62))],
    ids=["padded", "fine"],
)
def test_cmyk_profile_of_more_than_a_megabyte_is_applied(
    format: str, profile: bytes, cyan: tuple[int, int, int]
) -> None:
    image = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    pixels = decode(file_of(image, format, icc_profile=profile)).pixels.astype(int)
    np.testing.assert_allclose(pixels, np.broadcast_to(cyan, (8, 16, 3)), atol=8)


def test_profile_beyond_every_bound_costs_exact_colours_only() -> None:
    image = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    data = file_of(image, "tiff", icc_profile=cmyk_profile(INK) + bytes(8 * 1024**2))
    source = decode_image(data, max_bytes=10**8, max_pixels=10**6)
    assert (source.pixels == (0, 255, 255)).all()


def test_grey_profile_is_applied_beside_transparency() -> None:
    image = Image.new("LA", (8, 8), (55, 255))
    image.putpixel((0, 0), (55, 0))
    source = decode(file_of(image, "png", icc_profile=linear_grey_profile()))
    np.testing.assert_allclose(source.pixels[1:].astype(int), 128, atol=1)
    assert source.alpha is not None
    assert (source.pixels[0, 0].tolist(), int(source.alpha[0, 0])) == ([255] * 3, 0)


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_grey_profile_is_applied_to_16_bits(format: str) -> None:
    image = Image.fromarray(np.full((8, 8), 55 * 257, np.uint16))
    pixels = decode(file_of(image, format, icc_profile=linear_grey_profile())).pixels
    np.testing.assert_allclose(pixels.astype(int), 128, atol=1)


def test_lab_image_is_read_in_its_colours() -> None:
    red = Image.new("RGB", (8, 8), (200, 40, 30))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    pixels = decode(file_of(lab, "tiff")).pixels.astype(int)
    np.testing.assert_allclose(pixels, np.broadcast_to((200, 40, 30), (8, 8, 3)), atol=3)


def test_transparent_value_of_16_bit_grey_becomes_alpha() -> None:
    rows = b"\0" + np.array([0, 7, 65535], ">u2").tobytes()
    source = decode(png(3, 1, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 7))))
    assert source.alpha is not None
    assert (source.alpha[0].tolist(), source.pixels[0, :, 0].tolist()) == ([255, 0, 255], [0, 255, 255])


@pytest.mark.parametrize(("mode", "orientation"), [("RGB", 1), ("RGB", 6), ("CMYK", 1)])
def test_decoding_takes_little_more_memory_than_the_pixels(mode: str, orientation: int) -> None:
    format, profile = ("tiff", cmyk_profile(INK)) if mode == "CMYK" else ("png", rgb_profile())
    data = file_of(Image.new(mode, (3000, 3000)), format, exif=exif(orientation), icc_profile=profile)
    tracemalloc.start()
    source = decode_image(data, max_bytes=10**9, max_pixels=10**8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < source.pixels.nbytes + 20_000_000


def test_bands_of_a_large_image_join_without_a_seam() -> None:
    alpha = np.repeat(np.arange(1000, dtype=np.uint8)[:, None] % 255 + 1, 1500, axis=1)
    data = file_of(Image.fromarray(np.dstack([gradient(1500, 1000), alpha])), "png")
    source = decode_image(data, max_bytes=10**9, max_pixels=10**8)
    assert source.alpha is not None
    np.testing.assert_array_equal(source.pixels, gradient(1500, 1000))
    np.testing.assert_array_equal(source.alpha, alpha)
