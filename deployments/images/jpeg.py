"""JPEG files that lack their end: whether all pixels are there, and how many scans an image may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO

from PIL import Image

END = b"\xff\xd9"
SCAN, FRAMES = 0xDA, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
COEFFICIENTS = 64
MAX_SCANS = 100  # each one goes over the whole image; encoders write up to about 20
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
# What may follow the last pixel, restart markers included. A decoder reads on into it where bits are missing. Each
# filler begins with another pair of bits, and so gives other pixels.
RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]
FILLERS = [b"".join(bits * 64 + marker for marker in RESTARTS) for bits in (b"\x1d", b"\x6b", b"\x96", b"\xd2")]


def with_end(data: bytes) -> bytes:
    """The file with an end marker, where it lacks no more than that. Raises ValueError where it lacks pixels."""
    if _has_end(data):
        return data
    body = data.rstrip(b"\0")
    if body.endswith(b"\xff"):  # half a marker, or an escaped byte of pixels
        body = body.rstrip(b"\xff") if len(body) == len(data) else body + b"\0"
    if not _has_all_scans(body) or len({_decoded(body + filler + END) for filler in FILLERS}) > 1:
        raise ValueError("the file ends too early")
    return body + END


def check_scans(data: bytes) -> None:
    """Raise ValueError if the image takes unreasonably long to decode, for the many times that it is refined."""
    if data.count(bytes((0xFF, SCAN))) > MAX_SCANS and sum(marker == SCAN for marker, _ in _segments(data)) > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} scans")


def _has_end(data: bytes) -> bool:
    return data.endswith(END) or any(marker == END[1] for marker, _ in _segments(data))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker of the first image in a file, its end included, and the marker's segment."""
    at = 2
    while found := MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        length = int.from_bytes(data[at : at + 2])
        yield marker, data[at + 2 : at + length]
        if marker == END[1]:
            return
        at += length


def _has_all_scans(data: bytes) -> bool:
    """Whether each coefficient of each component has been sent down to its last bit."""
    missing: dict[int, int] = {}  # a bit for each coefficient of a component
    for marker, segment in _segments(data):
        if marker in FRAMES:
            missing = dict.fromkeys(segment[6::3], (1 << COEFFICIENTS) - 1)
        elif marker == SCAN and segment and len(segment) >= 4 + 2 * segment[0]:
            components, (first, last, precision) = (
                segment[1 : 1 + 2 * segment[0] : 2],
                segment[1 + 2 * segment[0] :][:3],
            )
            sent = (1 << last + 1) - (1 << first) if precision & 15 == 0 else 0
            missing |= {name: missing.get(name, 0) & ~sent for name in components}
    return bool(missing) and not any(missing.values())


def _decoded(data: bytes) -> bytes:
    """A digest of the pixels."""
    return sha256(Image.open(BytesIO(data), formats=["jpeg"]).tobytes()).digest()
