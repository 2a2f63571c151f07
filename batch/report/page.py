"""The HTML page of a job's results.

The page needs no network and no other file while its thumbnails fit into it. Larger sets of thumbnails are loaded
from report_files/ as they are looked at.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files

from batch.record.results import Result
from batch.report.thumbnails import Thumbnails

INLINE_BYTES = 24 * 1024**2  # of thumbnails in the page itself: 1,000 or so of photographs
NOT_SHOWN = {"source_bytes", "source_mtime_ns", "source_sha256", "mask_bytes", "mask_mtime_ns", "mask_sha256"}
NOT_SHOWN |= {"source_width", "source_height", "output_bytes", "digest"}
SHOWN = set(Result.model_fields) - NOT_SHOWN

_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")


def render(rows: Sequence[Result], thumbnails: Thumbnails, *, title: str, sources: str | None = None) -> str:
    """The page. No text of `rows` can become markup or script.

    `sources` is the URL of the input folder relative to the page, for full-size views, or None.
    """
    style, script = _read("report.css"), _read("comparison.js") + _read("report.js")
    values = {
        "policy": _policy(style, script),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": _json({"sources": sources, "rows": [_row(result, thumbnails) for result in rows]}),
        "chunks": _chunks(thumbnails),
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], _read("report.html"))


def _read(name: str) -> str:
    return (files("batch.report") / name).read_text("utf-8")


def _row(result: Result, thumbnails: Thumbnails) -> dict[str, object]:
    """The fields of a result that the page shows. The seed is text, as it may exceed JavaScript's integers."""
    row: dict[str, object] = result.model_dump(include=SHOWN, exclude_none=True)
    if result.seed is not None:
        row["seed"] = str(result.seed)
    if result.error_type is None and (index := thumbnails.chunk_index(result)):
        row["thumb"] = index
    return row


def _chunks(thumbnails: Thumbnails) -> str:
    """The chunks as blocks of the page if they are small enough, else an empty text."""
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


def _policy(style: str, script: str) -> str:
    """The Content Security Policy: this style, this script, the scripts it loads, local images, no network."""
    style_hash, script_hash = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}' 'strict-dynamic'; "
        "img-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )


def _json(value: object) -> str:
    return _harmless(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _harmless(text: str) -> str:
    """The same JSON without `<`, which could end its block of the page."""
    return text.replace("<", "\\u003c")
