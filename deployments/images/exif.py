"""EXIF blocks: read from a source what describes its photograph, and written with the settings as UserComment.

Values are copied as bytes with the types they have. Pillow would write UserComment with a type that piexif refuses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal

from PIL.ExifTags import IFD, Base

Entry = tuple[int, int, bytes]  # type, count, value
Directory = dict[int, Entry]  # by tag

HEADER = b"Exif\0\0"
LONG, UNDEFINED = 4, 7
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
MAX_ENTRIES = 1000  # of one directory
MAX_KEPT_BYTES = 60_000  # of all values; a JPEG holds 64 KB with the settings
# The other tags of the root tell how its file stores pixels, or what is no longer true: the orientation.
ROOT_TAGS = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution, Base.ResolutionUnit),
    *(Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.Copyright),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
}
# A maker's note holds offsets into its own file, and previews.
DROPPED_TAGS = {Base.UserComment, Base.MakerNote, Base.ExifImageWidth, Base.ExifImageHeight, IFD.Interop}


@dataclass(frozen=True, slots=True)
class Exif:
    """What an EXIF block says of a photograph: camera, date, place. Without orientation, thumbnail and comment."""

    order: Literal["<", ">"] = ">"
    root: Directory = field(default_factory=dict)
    photo: Directory = field(default_factory=dict)
    place: Directory = field(default_factory=dict)


def read_exif(block: bytes) -> Exif | None:
    """The Exif of a block, with or without its header, or of a TIFF file. None if it is empty, damaged or too large."""
    block = block.removeprefix(HEADER)
    order: Literal["<", ">"] = "<" if block.startswith(b"II") else ">"
    try:
        [start] = struct.unpack_from(f"{order}L", block, 4)
        root = _read(block, order, start, {*ROOT_TAGS, IFD.Exif, IFD.GPSInfo})
        photo, place = (
            _read(block, order, struct.unpack(f"{order}L", root.pop(tag)[2])[0]) if tag in root else {}
            for tag in (IFD.Exif, IFD.GPSInfo)
        )
    except (struct.error, ValueError):
        return None
    exif = Exif(order, root, {tag: entry for tag, entry in photo.items() if tag not in DROPPED_TAGS}, place)
    size = sum(len(value) for part in (exif.root, exif.photo, exif.place) for _, _, value in part.values())
    return exif if 0 < size <= MAX_KEPT_BYTES else None


def exif_block(comment: bytes, kept: Exif | None = None) -> bytes:
    """An EXIF block with what was kept of a source's, and a UserComment if that is not empty."""
    exif = kept or Exif()
    photo = exif.photo | ({int(Base.UserComment): (UNDEFINED, len(comment), comment)} if comment else {})
    photo_start = 8 + len(_written(_root(exif, 0, 0), exif.order, 8))
    photo_part = _written(photo, exif.order, photo_start)
    place_start = photo_start + len(photo_part)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[exif.order] + struct.pack(f"{exif.order}L", 8)
    root = _written(_root(exif, photo_start, place_start), exif.order, 8)
    return HEADER + mark + root + photo_part + (_written(exif.place, exif.order, place_start) if exif.place else b"")


def _root(exif: Exif, photo_start: int, place_start: int) -> Directory:
    starts = {IFD.Exif: photo_start} | ({IFD.GPSInfo: place_start} if exif.place else {})
    pointers = {int(tag): (LONG, 1, struct.pack(f"{exif.order}L", start)) for tag, start in starts.items()}
    return exif.root | pointers


def _read(block: bytes, order: str, start: int, wanted: set[int] | None = None) -> Directory:
    """The directory at `start`, or those of its entries that are wanted. Raises ValueError or struct.error."""
    [count] = struct.unpack_from(f"{order}H", block, start)
    if count > MAX_ENTRIES:
        raise ValueError(f"{count} entries")
    entries: Directory = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHL", block, at)
        if kind not in TYPE_BYTES or (wanted is not None and tag not in wanted):
            continue
        size = TYPE_BYTES[kind] * number
        place = at + 8 if size <= 4 else struct.unpack_from(f"{order}L", block, at + 8)[0]
        if size > MAX_KEPT_BYTES and tag not in DROPPED_TAGS or place + size > len(block):
            raise ValueError(f"tag {tag} has {size} bytes")
        entries[tag] = kind, number, block[place : place + size]
    return entries


def _written(entries: Directory, order: str, start: int) -> bytes:
    """The directory for offset `start`, followed by the values that do not fit into it."""
    table, values = struct.pack(f"{order}H", len(entries)), b""
    end = start + 2 + 12 * len(entries) + 4
    for tag, (kind, number, value) in sorted(entries.items()):
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}L", end + len(values))
        table += struct.pack(f"{order}HHL", tag, kind, number) + place
        values += value + b"\0" * (len(value) % 2) if len(value) > 4 else b""
    return table + bytes(4) + values
