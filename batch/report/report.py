"""Writes what a person opens after a folder job: report.html, and contact_sheet.png with before and after in a grid.

The page needs no network and no other file, until its thumbnails get too large to open at once: then it loads them
from report_files/ as they are looked at.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

from batch.record.results import Result
from batch.report.thumbnails import Pair, Thumbnails
from batch.storage.storage import Storage

REPORT_FILE = "report.html"
SHEET_FILE = "contact_sheet.png"
INLINE_BYTES = 24 * 1024**2  # of thumbnails in the page itself: 1,000 or so of photographs
NOT_SHOWN = {"source_bytes", "source_mtime_ns", "source_sha256", "mask_bytes", "mask_mtime_ns", "mask_sha256"}
NOT_SHOWN |= {"source_width", "source_height", "output_bytes", "digest"}

SHEET_PAIRS = 100
SHEET_COLUMNS = 5
SHEET_SIDE = 160
SHEET_GAP = 12
SHEET_CAPTION_PX = 40
FONT_PX = 13
PAIR_GAP = 2
PAPER, INK, SOFT_INK = "#ffffff", "#222222", "#777777"

_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")


def write_report(results: Iterable[Result], inputs: Storage, outputs: Storage, *, title: str) -> None:
    """Write report.html and contact_sheet.png, which shows at most 100 pairs, evenly drawn from the finished.

    `results` is the last result of every output; thumbnails that they lack are made. Raises OSError.
    """
    rows = sorted(results, key=lambda result: (result.source, result.output or ""))
    thumbnails = Thumbnails(outputs)
    thumbnails.fill(rows, inputs)
    thumbnails.close()
    page = render(rows, thumbnails, title=title, sources=_address(inputs, outputs))
    outputs.write(REPORT_FILE, page.encode(errors="replace"))
    if pairs := _sample(rows, thumbnails):
        buffer = BytesIO()
        contact_sheet(pairs).save(buffer, "PNG")
        outputs.write(SHEET_FILE, buffer.getvalue())


def render(rows: Sequence[Result], thumbnails: Thumbnails, *, title: str, sources: str | None = None) -> str:
    """The page. Nothing in `rows`, hostile or not, gets to be markup or script.

    `sources` is the URL of the input folder as seen from the page, for full-size views; None where there is none.
    """
    page = files("batch.report")
    style, script = ((page / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    values = {
        "policy": _policy(style, script),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": _json({"sources": sources, "rows": [_row(result, thumbnails) for result in rows]}),
        "chunks": _chunks(thumbnails),
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], (page / REPORT_FILE).read_text("utf-8"))


def contact_sheet(pairs: Sequence[tuple[Result, Pair]]) -> Image.Image:
    """A grid of before beside after, each pair above its source's name and main settings; at least one pair."""
    columns = min(SHEET_COLUMNS, ceil(sqrt(len(pairs))))
    across, down = 2 * SHEET_SIDE + SHEET_GAP, SHEET_SIDE + SHEET_CAPTION_PX + SHEET_GAP
    size = columns * across + SHEET_GAP, ceil(len(pairs) / columns) * down + SHEET_GAP
    sheet = Image.new("RGB", size, PAPER)
    for i, (result, pair) in enumerate(pairs):
        middle, bottom = SHEET_GAP + i % columns * across + SHEET_SIDE, SHEET_GAP + i // columns * down + SHEET_SIDE
        before, after = (_fitted(side) for side in pair)
        if before is not None:
            sheet.paste(before, (middle - before.width, bottom - before.height))
        if after is not None:
            sheet.paste(after, (middle + PAIR_GAP, bottom - after.height))
        _write_caption(ImageDraw.Draw(sheet), result, middle, bottom)
    return sheet


def _fitted(jpeg: bytes) -> Image.Image | None:
    if not jpeg:
        return None
    picture = Image.open(BytesIO(jpeg))
    picture.thumbnail((SHEET_SIDE - PAIR_GAP, SHEET_SIDE), Image.Resampling.LANCZOS)
    return picture


def _write_caption(pen: ImageDraw.ImageDraw, result: Result, middle: int, top: int) -> None:
    font = ImageFont.load_default(FONT_PX)
    numbers = (("strength", result.strength), ("guidance", result.guidance_scale))
    settings = [result.model or "", *(f"{name} {value:g}" for name, value in numbers if value is not None)]
    for line, (text, ink) in enumerate(((result.source, INK), ("  ".join(settings), SOFT_INK))):
        height = top + (2 * line + 1) * SHEET_CAPTION_PX // 4
        pen.text((middle, height), _cut(text, 2 * SHEET_SIDE, font), ink, font, anchor="mm")


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of its end as fits: file names differ at their ends."""
    shown = text
    while shown and font.getlength(shown) > width:
        text = text[1:]
        shown = f"...{text}"
    return shown


def _sample(rows: Sequence[Result], thumbnails: Thumbnails) -> list[tuple[Result, Pair]]:
    placed = [(result, place) for result in rows if (place := thumbnails.place(result)) and not result.error_type]
    step = max(1.0, len(placed) / SHEET_PAIRS)
    chosen = [placed[int(i * step)] for i in range(min(SHEET_PAIRS, len(placed)))]
    read = lru_cache(1)(thumbnails.read)  # neighbours mostly share a chunk
    pairs: list[tuple[Result, Pair]] = []
    for result, (chunk, position) in chosen:
        with suppress(OSError, ValueError, IndexError):  # a chunk that someone removed or changed
            pairs.append((result, read(chunk)[position]))
    return pairs


def _row(result: Result, thumbnails: Thumbnails) -> dict[str, object]:
    """What the page knows of a result; the seed as text, for it may be larger than JavaScript's numbers."""
    row: dict[str, object] = result.model_dump(exclude=NOT_SHOWN, exclude_none=True)
    if result.seed is not None:
        row["seed"] = str(result.seed)
    if result.error_type is None and (place := thumbnails.place(result)):
        row["thumb"] = place
    return row


def _chunks(thumbnails: Thumbnails) -> str:
    """The chunks as blocks of the page if they are small enough, else nothing."""
    blocks: list[str] = []
    room = INLINE_BYTES
    for chunk in range(thumbnails.num_chunks()):
        try:
            data = _harmless(thumbnails.read_json(chunk))
        except (OSError, ValueError):
            continue
        room -= len(data)
        if room < 0:
            return ""
        blocks.append(f'<script type="application/json" id="chunk-{chunk}">{data}</script>\n')
    return "".join(blocks)


def _address(inputs: Storage, outputs: Storage) -> str | None:
    if inputs.local is None or outputs.local is None:
        return None
    path = os.path.relpath(inputs.local.resolve(), outputs.local.resolve())
    return quote(Path(path).as_posix())


def _policy(style: str, script: str) -> str:
    """The Content Security Policy: this style, this script, and what it loads; files of this machine, no network."""
    style_hash, script_hash = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}' 'strict-dynamic'; "
        "img-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )


def _json(value: object) -> str:
    return _harmless(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _harmless(text: str) -> str:
    """The same JSON without what could end its block of the page."""
    return text.replace("<", "\\u003c")
