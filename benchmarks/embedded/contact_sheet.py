"""Draws images side by side, each with its caption, and saves them within a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from deployments.engine.request import Pixels

Captioned = tuple[str, Pixels]

MARGIN = 6
CAPTION_PX = 18
FONT_PX = 12
QUALITIES = range(90, 20, -5)


def draw_sheet(rows: Sequence[Sequence[Captioned]], side: int) -> Image.Image:
    """A white sheet with the rows' images, each fitted into a square of `side` px above its caption."""
    columns = max(len(row) for row in rows)
    across, down = side + MARGIN, side + CAPTION_PX + MARGIN
    sheet = Image.new("RGB", (columns * across + MARGIN, len(rows) * down + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for i, row in enumerate(rows):
        for k, (caption, pixels) in enumerate(row):
            left, top = MARGIN + k * across, MARGIN + i * down
            image = Image.fromarray(pixels)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (left, top))
            pen.text((left + side // 2, top + side + CAPTION_PX // 2), caption, "black", font, anchor="mm")
    return sheet


def save_jpeg(sheet: Image.Image, file: Path, max_bytes: int) -> None:
    """Write the sheet in the best quality that fits. Raises ValueError if none does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for quality in QUALITIES:
        sheet.save(file, "JPEG", quality=quality, optimize=True)
        if file.stat().st_size <= max_bytes:
            return
    raise ValueError(f"{file}: {sheet.width}x{sheet.height} px do not fit into {max_bytes} bytes; draw it smaller")
