"""Writes the report of a folder job: report.html, and contact_sheet.png with before and after in a grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from batch.record.results import Result
from batch.report.contact_sheet import contact_sheet
from batch.report.page import render
from batch.report.thumbnails import Pair, Thumbnails
from batch.storage.storage import Storage

REPORT_FILE = "report.html"
SHEET_FILE = "contact_sheet.png"
SHEET_PAIRS = 100


def write_report(results: Iterable[Result], inputs: Storage, outputs: Storage, *, title: str) -> None:
    """Write report.html and contact_sheet.png, a sheet of at most 100 pairs drawn evenly from the finished results.

    `results` holds the last result of every output. Missing thumbnails are made. Raises OSError.
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


def _sample(rows: Sequence[Result], thumbnails: Thumbnails) -> list[tuple[Result, Pair]]:
    indexed = [
        (result, index) for result in rows if not result.error_type and (index := thumbnails.chunk_index(result))
    ]
    step = max(1.0, len(indexed) / SHEET_PAIRS)
    chosen = [indexed[int(i * step)] for i in range(min(SHEET_PAIRS, len(indexed)))]
    read = lru_cache(1)(thumbnails.read)  # neighbours mostly share a chunk
    pairs: list[tuple[Result, Pair]] = []
    for result, (chunk, position) in chosen:
        with suppress(OSError, ValueError, IndexError):  # a chunk that someone removed or changed
            pairs.append((result, read(chunk)[position]))
    return pairs


def _address(inputs: Storage, outputs: Storage) -> str | None:
    if inputs.local is None or outputs.local is None:
        return None
    path = os.path.relpath(inputs.local.resolve(), outputs.local.resolve())
    return quote(Path(path).as_posix())
