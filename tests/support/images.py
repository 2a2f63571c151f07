"""Makes the images that the tests read: plain ones, odd ones, and hostile ones. No files, only bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from deployments.engine.request import Pixels
from deployments.images.codec import SourceImage, decode_image

LOSSLESS = ("png", "bmp", "tiff")
ILLUMINANT = struct.pack(">3i", 63190, 65536, 54061)  # D50
WEB_UI_COMMENT = b"UNICODE\0" + "a fox\nSteps: 20".encode("utf-16-be")


def gradient(width: int = 48, height: int = 32) -> Pixels:
    """A smooth image without symmetry: red grows to the right, green downwards, blue along the diagonal."""
    y, x = np.mgrid[0:height, 0:width]
    planes = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) * 255 // (width + height)
    return np.stack(planes, axis=-1).astype(np.uint8)


def patches(seed: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """Soft patches of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def file_of(source: Image.Image | Pixels, format: str, **options: Any) -> bytes:
    """The image's file as Pillow writes it."""
    image = source if isinstance(source, Image.Image) else Image.fromarray(source)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def stored_turned(pixels: Pixels, orientation: int) -> Pixels:
    """`pixels` as a camera stores them under an EXIF orientation (1 to 8): viewers show them upright."""
    stored: dict[int, Pixels] = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def exif(orientation: int | None = None, user_comment: bytes | None = None) -> bytes:
    """An EXIF block with the given tags."""
    block = Image.Exif()
    if orientation is not None:
        block[0x0112] = orientation
    if user_comment is not None:
        block.get_ifd(0x8769)[0x9286] = user_comment
    return block.tobytes()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow cannot write; `rows` is scan lines, each led by a 0 byte."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache  # it holds the time of its making
def rgb_profile() -> bytes:
    """An sRGB ICC profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def cmyk_profile(ink_lab: tuple[int, int, int]) -> bytes:
    """The smallest ICC profile of a printer: `ink_lab` (8-bit Lab) is what any ink but black gives."""
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    white, black = bytes((255, 128, 128)), bytes((0, 128, 128))
    grid = white + black + (bytes(ink_lab) + black) * 7
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + grid + ramp * 3
    return _icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def large_cmyk_profile(ink_lab: tuple[int, int, int]) -> bytes:
    """`cmyk_profile` with a table of 16 bits and 21 points along each ink, of 1.2 MB, as printers' profiles have."""
    points = 21
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = struct.pack(">2H", 0, 65535)
    ink = np.indices((points,) * 4)[:3].max(axis=0) / (points - 1)  # any ink but black, 0 to 1
    black = np.indices((points,) * 4)[3] / (points - 1)
    white = np.array((65280, 32768, 32768))
    lab = white + (np.array(ink_lab) * 256 - white) * ink[..., None]
    lab[..., 0] *= 1 - black
    table = b"mft2\0\0\0\0" + bytes((4, 3, points, 0)) + identity + struct.pack(">2H", 2, 2)
    table += ramp * 4 + np.rint(lab).astype(">u2").tobytes() + ramp * 3
    return _icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def linear_grey_profile() -> bytes:
    """The smallest ICC profile of a grey image whose values are proportional to light."""
    white = b"XYZ \0\0\0\0" + ILLUMINANT
    return _icc(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": b"curv" + bytes(8)})


def _icc(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    index, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        index += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x02400000, device, space, connection)
    header = (head + bytes(12) + b"acsp" + bytes(28) + ILLUMINANT).ljust(128, b"\0")
    return header + index + data


def mutations(data: bytes, count: int, seed: int) -> Iterable[bytes]:
    """`count` damaged copies of a file, mostly near its head: bytes changed, pieces cut out, doubled, chopped off."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            at = int(len(damaged) * rng.random() ** 3)
            piece = int(rng.integers(1, 32))
            match int(rng.integers(6)):
                case 0:
                    del damaged[at : at + piece]
                case 1:
                    damaged[at:at] = damaged[at : at + piece]
                case 2:
                    del damaged[max(at, 1) :]
                case _:
                    damaged[at : at + 1] = rng.integers(256, size=1, dtype=np.uint8).tobytes()
        yield bytes(damaged)


def decode(data: bytes) -> SourceImage:
    """The image in a file of the tests' sizes."""
    return decode_image(data, max_bytes=8_000_000, max_pixels=1_000_000)


def half_transparent() -> np.ndarray[Any, Any]:
    """An alpha channel for `gradient()`: nothing, half and all of it."""
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, :16], alpha[:, 16:24] = 0, 128
    return alpha
