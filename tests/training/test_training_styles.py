"""The painted styles: repeatable, true to the photo's structure, apart from each other, at home on a grid of 32 px."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.embedded.measures import edge_correlation
from deployments.config import REPO_ROOT
from training.strokes import Cells, Sites, facets, voronoi
from training.styles import MANNERS, PANES, PLANES, STYLES, TESSERAE, paint

Pixels = NDArray[np.uint8]

PAINTED = STYLES[1:]
GRIDDED = ("pixel art", "mosaic")  # the tessellation adds edges of its own
PHOTOS = ("astronaut.jpg", "coffee.jpg", "deep_field.jpg", "pets/cat.jpg", "photographer.jpg", "rocket.jpg")


def photo(name: str = "astronaut.jpg", size: tuple[int, int] = (256, 256)) -> Pixels:
    """A photo's middle at the given (width, height)."""
    with Image.open(REPO_ROOT / "data" / "input_images" / name) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), size))


def distance(one: Pixels, other: Pixels) -> float:
    """The mean difference of two images in levels of 0..255."""
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("style", STYLES)
def test_painting_is_repeatable_and_leaves_the_photo_alone(style: str, manner: str) -> None:
    source = photo()
    before = source.copy()
    np.testing.assert_array_equal(paint(source, style, manner), paint(source, style, manner))
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("size", [(64, 64), (101, 75), (131, 200), (1024, 66)])
@pytest.mark.parametrize("style", STYLES)
def test_painting_has_the_photos_shape(style: str, size: tuple[int, int]) -> None:
    for manner in MANNERS:
        painting = paint(photo(size=size), style, manner)
        assert (painting.shape, painting.dtype) == ((size[1], size[0], 3), np.uint8)


def test_fine_photo_is_the_photo() -> None:
    np.testing.assert_array_equal(paint(photo(), "photo"), photo())


@pytest.mark.parametrize("manner", MANNERS)
def test_styles_differ_from_each_other_and_from_the_photo(manner: str) -> None:
    paintings = {style: paint(photo("coffee.jpg"), style, manner) for style in STYLES}
    for one, other in combinations(STYLES, 2):
        assert distance(paintings[one], paintings[other]) > 6, (one, other)


@pytest.mark.parametrize("style", STYLES)
def test_bold_differs_from_fine(style: str) -> None:
    assert distance(paint(photo(), style, "bold"), paint(photo(), style, "fine")) > 4


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("style", [style for style in PAINTED if style != "sepia"])  # its vignette knows the corners
def test_photo_shifted_by_32_px_is_painted_the_same(style: str, manner: str) -> None:
    wide = photo("coffee.jpg", (320, 256))
    here, there = paint(wide[:, :288], style, manner), paint(wide[:, 32:], style, manner)
    assert distance(here[64:-64, 96:224], there[64:-64, 64:192]) < 0.5


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("style", STYLES)
def test_structure_of_the_photo_stays(style: str, manner: str) -> None:
    kept = np.mean([edge_correlation(photo(name), paint(photo(name), style, manner)) for name in PHOTOS])
    assert kept > (0.2 if style in GRIDDED else 0.5)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("style", PAINTED)
def test_dark_and_bright_photos_are_neither_lost(style: str, manner: str) -> None:
    source = photo("coffee.jpg").astype(float)
    for exposed in (source * 0.15, 255 - (255 - source) * 0.15):
        painting = paint(exposed.astype(np.uint8), style, manner).astype(float)
        assert 20 < painting.mean() < 248
        assert painting.std() > 0.4 * exposed.std()


@pytest.mark.parametrize("style", ["photo", "watercolour", "cartoon", "pixel art", "pastel anime", "woodblock print"])
def test_flat_photo_stays_flat(style: str) -> None:
    for level in (0, 128, 255):
        for manner in MANNERS:
            painting = paint(np.full((96, 96, 3), level, np.uint8), style, manner)
            assert np.ptp(painting, axis=(0, 1)).max() <= 2, (level, manner)


@pytest.mark.parametrize(("tessellation", "sites"), [(voronoi, TESSERAE), (voronoi, PANES), (facets, PLANES)])
def test_cells_are_small_and_connected(tessellation: Callable[..., Cells], sites: Sites) -> None:
    cells = tessellation(100, 130, sites)
    assert cells.owner.shape == (100, 130)
    for owner in np.unique(cells.owner):
        rows, columns = np.nonzero(cells.owner == owner)
        assert np.ptp(rows) < 34
        assert np.ptp(columns) < 34
        assert cv2.connectedComponents((cells.owner == owner).astype(np.uint8))[0] == 2


def test_unknown_style_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'fresco'.*pencil sketch, watercolour"):
        paint(photo(), "fresco")


def test_unknown_manner_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'wild'.*fine, bold"):
        paint(photo(), "sepia", "wild")
