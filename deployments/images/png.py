"""PNG files without what could cost them their pixels: chunks of text and colour that are damaged or too large.

Pillow refuses a whole image for one damaged chunk of text, and for a compressed one of more than 1 MiB.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE")
# What is kept beside the pixels, and how many of each: the first ones.
MAX_CHUNKS = dict.fromkeys((*CRITICAL, b"tRNS", b"iCCP", b"eXIf"), 1) | dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), 1000)
MIN_TRANSPARENCY_BYTES = {0: 2, 2: 6}  # by colour type
MAX_UNPACKED_BYTES = 8 * 1024**2  # of one text or profile
MAX_TOTAL_BYTES = 8 * MAX_UNPACKED_BYTES  # of all texts and profiles together

MAX_RATIO = 1032  # of zlib, unpacked to packed

# `clean_png` leaves nothing in a file that these limits would refuse.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_UNPACKED_BYTES
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TOTAL_BYTES


def clean_png(data: bytes) -> bytes:
    """The header, palette, transparency, colour profile, EXIF, texts and pixels of a PNG file, in this order.

    All else is left out, as are ancillary chunks that are damaged or exceed the limits. Pixels that are cut off stay
    cut off. Raises ValueError if the header or the palette is damaged.
    """
    kept: dict[bytes, list[bytes]] = {kind: [] for kind in MAX_CHUNKS}
    pixels = bytearray()
    room = MAX_TOTAL_BYTES
    for kind, body, checked in _chunks(memoryview(data)):
        if kind == b"IDAT":
            pixels += body
        elif kind in MAX_CHUNKS and len(kept[kind]) < MAX_CHUNKS[kind] and room > 0 and _is_sound(kind, checked):
            size = _unpacked_bytes(kind, bytes(body))
            room -= min(len(body) * MAX_RATIO, MAX_UNPACKED_BYTES) if size is None else size
            if size is not None and size < MAX_UNPACKED_BYTES:
                kept[kind].append(bytes(body))
    if kept[b"IHDR"] and any(len(body) < _min_transparency(kept[b"IHDR"][0]) for body in kept[b"tRNS"]):
        kept[b"tRNS"].clear()
    parts = [part for kind, bodies in kept.items() for body in bodies for part in _chunk(kind, body)]
    end = [*_chunk(b"IDAT", pixels), *_chunk(b"IEND", b"")] if pixels else []
    return b"".join([SIGNATURE, *parts, *end])


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Each chunk's type, its data, and what its checksum is of, with the checksum. The last may be cut off."""
    at, kind = len(SIGNATURE), b""
    while at + 8 <= len(view) and kind != b"IEND":
        length, kind = struct.unpack(">I4s", view[at : at + 8])
        end = at + 8 + length
        yield kind, view[at + 8 : end], view[at + 4 : end + 4]
        at = end + 4


def _is_sound(kind: bytes, checked: memoryview) -> bool:
    is_sound = zlib.crc32(checked[:-4]) == int.from_bytes(checked[-4:])
    if kind in CRITICAL and not is_sound:
        raise ValueError(f"the checksum of its {kind.decode()} is wrong")
    return is_sound


def _chunk(kind: bytes, body: bytes | bytearray) -> tuple[bytes, bytes | bytearray, bytes]:
    return struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _unpacked_bytes(kind: bytes, body: bytes) -> int | None:
    """The size of a chunk's text or profile, at most MAX_UNPACKED_BYTES; None if it cannot be unpacked."""
    name_ends = body.find(b"\0")
    flags = body[name_ends + 1 : name_ends + 3]
    if kind == b"iTXt" and flags[:1] != b"\0":
        method, packed = flags[1:], body[name_ends + 3 :].split(b"\0", 2)[-1]
    elif kind in (b"zTXt", b"iCCP"):
        method, packed = flags[:1], body[name_ends + 2 :]
    else:
        return min(len(body), MAX_UNPACKED_BYTES)
    if name_ends < 0 or method != b"\0":
        return None
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_UNPACKED_BYTES))
    except zlib.error:
        return None


def _min_transparency(header: bytes) -> int:
    return MIN_TRANSPARENCY_BYTES.get(header[9], 0) if len(header) >= 13 else 0
