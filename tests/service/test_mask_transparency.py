"""What the transparent part of a mask's file means, by mode and by who sends it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deployments.images.codec import SourceImage
from deployments.images.masks import MaskMode, read_mask
from tests.support.images import decode, file_of

SIZE = 96, 64
BOX = 24, 16, 72, 48


def white_strokes() -> Image.Image:
    """A white box on a transparent background, as paint programs write it."""
    strokes = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    strokes.paste((255, 255, 255, 255), BOX)
    return strokes


def box() -> np.ndarray:
    mask = Image.new("L", SIZE)
    mask.paste(255, BOX)
    return np.array(mask)


def mask_in(image: Image.Image, mode: MaskMode) -> np.ndarray:
    return read_mask(decode(file_of(image, "png")), SIZE, mode)


def test_white_strokes_on_a_transparent_background_mark_the_strokes_only() -> None:
    assert np.array_equal(mask_in(white_strokes(), "white"), box())


@pytest.mark.parametrize("background", [(0, 0, 0, 0), (255, 255, 255, 0), (255, 255, 255, 60), (9, 200, 3, 128)])
def test_white_counts_as_on_black(background: tuple[int, ...]) -> None:
    image = Image.new("RGBA", SIZE, background)
    image.paste((255, 255, 255, 255), BOX)
    flat = Image.new("RGB", SIZE)
    flat.paste(image, mask=image)
    assert np.array_equal(mask_in(image, "white"), np.array(flat.convert("L")))


@pytest.mark.parametrize(("mode", "inside"), [("auto", 0), ("transparent", 0), ("opaque", 255), ("white", 255)])
def test_each_mode_has_one_rule_for_white_strokes(mode: MaskMode, inside: int) -> None:
    assert np.array_equal(mask_in(white_strokes(), mode), box() if inside else 255 - box())


def test_opaque_alpha_channel_changes_nothing() -> None:
    grey = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    plain: SourceImage = decode(file_of(grey, "png"))
    opaque = replace(plain, alpha=np.full((64, 96), 255, np.uint8))
    for mode in ("auto", "white"):
        assert np.array_equal(read_mask(opaque, SIZE, mode), read_mask(plain, SIZE, mode))
