"""The contact sheet: before beside after in a grid, as one image."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import ceil, sqrt

from PIL import Image, ImageDraw, ImageFont

from batch.record.results import Result
from batch.report.thumbnails import Pair

SHEET_COLUMNS = 5
SHEET_SIDE = 160
SHEET_GAP = 12
SHEET_CAPTION_PX = 40
FONT_PX = 13
PAIR_GAP = 2
PAPER, INK, SOFT_INK = "#ffffff", "#222222", "#777777"


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
    image = Image.open(BytesIO(jpeg))
    image.thumbnail((SHEET_SIDE - PAIR_GAP, SHEET_SIDE), Image.Resampling.LANCZOS)
    return image


def _write_caption(pen: ImageDraw.ImageDraw, result: Result, middle: int, top: int) -> None:
    font = ImageFont.load_default(FONT_PX)
    numbers = (("strength", result.strength), ("guidance", result.guidance_scale))
    settings = [result.model or "", *(f"{name} {value:g}" for name, value in numbers if value is not None)]
    for line, (text, ink) in enumerate(((result.source, INK), ("  ".join(settings), SOFT_INK))):
        height = top + (2 * line + 1) * SHEET_CAPTION_PX // 4
        pen.text((middle, height), _cut(text, 2 * SHEET_SIDE, font), ink, font, anchor="mm")


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of its end as fits: file names differ at their ends."""
    cut = text
    while cut and font.getlength(cut) > width:
        text = text[1:]
        cut = f"...{text}"
    return cut
