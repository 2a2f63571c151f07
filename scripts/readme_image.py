"""Draws docs/styles.jpg, the image of the README: one photo in eight styles at two strengths.

Run it as `python -m scripts.readme_image`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.embedded.contact_sheet import Captioned, draw_sheet, save_jpeg
from benchmarks.embedded.painter import Painter, open_photo
from deployments.config import REPO_ROOT
from training.prompts import prompt_for

PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"
CHECKPOINT = REPO_ROOT / "data" / "models" / "tiny-sd15"
STYLES = (
    "pencil sketch",
    "watercolour",
    "oil painting",
    "pixel art",
    "mosaic",
    "blueprint",
    "woodblock print",
    "neon night",
)
STRENGTHS = (0.35, 0.6)
SEED = 1
SIDE_PX, PAIRS_A_ROW, MAX_BYTES = 160, 3, 250_000


def draw(painter: Painter, file: Path) -> None:
    """Write the sheet: the photo, its image with the prompt "photo", then a pair of strengths of each style."""
    photo = open_photo(PHOTO)
    requested = [("photo", STRENGTHS[0]), *((style, strength) for style in STYLES for strength in STRENGTHS)]
    images = painter.paint(
        [painter.request(photo, prompt_for(s), strength=strength, seed=SEED) for s, strength in requested]
    )
    cells: list[Captioned] = [("the source", photo)]
    cells += [(f"{s}, {strength:g}", image) for (s, strength), image in zip(requested, images, strict=True)]
    width = 2 * PAIRS_A_ROW
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    save_jpeg(draw_sheet(rows, SIDE_PX), file, MAX_BYTES)


def main(
    out: Annotated[Path, typer.Option(help="The .jpg file to write.")] = REPO_ROOT / "docs" / "styles.jpg",
) -> None:
    """Paint with the embedded checkpoint. Each caption is the prompt and the strength."""
    draw(Painter(CHECKPOINT), out)
    Console().print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
