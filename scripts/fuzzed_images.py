"""Image files of every format that is read, and damaged copies of them, for the fuzzer."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIDE = 48
TEXT = "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
WIDTHS = ("<H", ">H", "<I", ">I")
MUTATION_COUNTS = (1, 1, 1, 2, 2, 3, 6)
MAX_BLOCK = 64
TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd")
FAX_COMPRESSIONS = ("group3", "group4")


def originals() -> dict[str, bytes]:
    """Sound files by name; a name is the format, and what is special about the file."""
    return {f"{format} {name}": _saved(image, format, **options) for format, name, image, options in _variants()}


def damaged(originals: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files with their originals' names, each original in turn; the same ones for the same seed."""
    names = list(originals)
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        name = names[number % len(names)]
        data = bytearray(originals[name])
        for _ in range(draw.choice(MUTATION_COUNTS)):
            if data:
                draw.choice(MUTATIONS)(data, draw)
        yield name, _with_checksums(bytes(data)) if draw.random() < 0.8 else bytes(data)


def _variants() -> Iterator[tuple[str, str, Image.Image, dict[str, Any]]]:
    photo = _photo()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extras = {"exif": _exif(), "icc_profile": srgb}
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", TEXT, zip=True)
    text.add_itxt("parameters", TEXT, zip=True)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield "png", mode, _in_mode(photo, mode), {}
    yield "png", "extras", photo, {**extras, "pnginfo": text}
    yield "png", "transparent palette", _in_mode(photo, "P"), {"transparency": bytes(range(200))}
    yield "png", "animated", photo, {"save_all": True, "append_images": [photo.rotate(90)]}
    for mode in ("L", "RGB", "CMYK"):
        yield "jpeg", f"baseline {mode}", _in_mode(photo, mode), {}
        yield "jpeg", f"progressive {mode}", _in_mode(photo, mode), {"progressive": True}
    yield "jpeg", "extras", photo, extras
    yield "jpeg", "restarts", photo, {"restart_marker_blocks": 1}
    yield "mpo", "two images", photo, {"save_all": True, "append_images": [photo.rotate(90)]}
    yield "webp", "lossy", photo, extras
    yield "webp", "lossless", _in_mode(photo, "RGBA"), {"lossless": True}
    yield "webp", "animated", photo, {"save_all": True, "append_images": [photo.rotate(90)]}
    yield "gif", "one frame", photo, {"comment": TEXT.encode()}
    yield "gif", "animated", photo, {"save_all": True, "append_images": [photo.rotate(90)]}
    for mode in ("1", "L", "P", "RGB"):
        yield "bmp", mode, _in_mode(photo, mode), {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"):
        yield "tiff", mode, _in_mode(photo, mode), {}
    for compression in TIFF_COMPRESSIONS:
        yield "tiff", compression, photo, {"compression": compression}
    for compression in FAX_COMPRESSIONS:
        yield "tiff", compression, _in_mode(photo, "1"), {"compression": compression}
    yield "tiff", "two pages", photo, {"save_all": True, "append_images": [photo.rotate(90)], **extras}
    yield "avif", "RGB", photo, extras
    yield "avif", "RGBA", _in_mode(photo, "RGBA"), {}


def _photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 64, (SIDE, SIDE, 3))
    ramp = np.linspace(0, 191, SIDE)
    return Image.fromarray((ramp[:, None, None] / 2 + ramp[None, :, None] / 2 + noise).astype(np.uint8))


def _in_mode(photo: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)
    if mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(photo, lab) or photo
    return photo.convert("L").convert(mode) if mode in ("I", "F") else photo.convert(mode)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + TEXT.encode("utf-16-be")
    return exif.tobytes()


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _place(data: bytearray, draw: random.Random) -> int:
    """Anywhere, but more often near the head."""
    return int(len(data) * draw.random() ** draw.choice((1, 3)))


def _flip_bit(data: bytearray, draw: random.Random) -> None:
    data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _set_byte(data: bytearray, draw: random.Random) -> None:
    data[_place(data, draw)] = draw.randrange(256)


def _set_number(data: bytearray, draw: random.Random) -> None:
    """Change what may be a size, a count or an offset."""
    width = draw.choice(WIDTHS)
    size = struct.calcsize(width)
    at = _place(data, draw)
    data[at : at + size] = struct.pack(width, draw.choice(NUMBERS) & ((1 << 8 * size) - 1))


def _cut_end(data: bytearray, draw: random.Random) -> None:
    del data[max(int(len(data) * draw.random() ** 0.3), 1) :]


def _delete_block(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.randint(1, MAX_BLOCK)]


def _repeat_block(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + draw.randint(1, MAX_BLOCK)] * draw.choice((1, 1, 10, 1000))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number),
    *(_cut_end, _delete_block, _repeat_block),
)


def _with_checksums(data: bytes) -> bytes:
    """A PNG's chunks with the checksums of their damaged data, so that this is read; any other file as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    whole, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            break
        whole[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(whole)
