"""Sheets show every image where it belongs, and fit into the bytes they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.embedded.contact_sheet import CAPTION_PX, MARGIN, draw_sheet, save_jpeg
from deployments.engine.request import Pixels
from tests.support.reference import smooth_image


def plain(colour: tuple[int, int, int]) -> Pixels:
    return np.full((64, 64, 3), colour, np.uint8)


def test_images_stand_in_rows_and_columns_with_room_for_captions() -> None:
    red, green, blue = plain((255, 0, 0)), plain((0, 255, 0)), plain((0, 0, 255))
    sheet = draw_sheet([[("a", red), ("b", green)], [("c", blue)]], 32)
    assert sheet.size == (2 * (32 + MARGIN) + MARGIN, 2 * (32 + CAPTION_PX + MARGIN) + MARGIN)
    left, top = MARGIN + 16, MARGIN + 16
    right, bottom = left + 32 + MARGIN, top + 32 + CAPTION_PX + MARGIN
    seen = [sheet.getpixel(place) for place in ((left, top), (right, top), (left, bottom), (right, bottom))]
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_caption_is_written_below_its_image() -> None:
    written, blank = (np.asarray(draw_sheet([[(caption, plain((255, 255, 255)))]], 64)) for caption in ("mosaic", ""))
    below = MARGIN + 64
    np.testing.assert_array_equal(written[:below], blank[:below])
    assert written[below:].min() < 64 < blank[below:].min()


def test_saved_sheet_is_as_good_as_the_bytes_allow(tmp_path: Path) -> None:
    sheet = draw_sheet([[("", smooth_image(1, 256, 256))]], 256)
    sizes = []
    for limit in (100_000, 9_000):
        save_jpeg(sheet, tmp_path / "sheets" / "sheet.jpg", limit)
        sizes.append((tmp_path / "sheets" / "sheet.jpg").stat().st_size)
        assert sizes[-1] <= limit
        assert Image.open(tmp_path / "sheets" / "sheet.jpg").size == sheet.size
    assert sizes[1] < sizes[0]


def test_sheet_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sheet\.jpg: 268x286 px do not fit into 500 bytes"):
        save_jpeg(draw_sheet([[("", smooth_image(1, 256, 256))]], 256), tmp_path / "sheet.jpg", 500)
