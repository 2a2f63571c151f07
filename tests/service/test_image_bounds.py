"""No request makes an image, in between or at the end, that is far larger than its source and its reply."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from deployments.api.webui import canvas
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.images.codec import SourceImage
from deployments.images.flow import prepare
from deployments.images.geometry import MAX_PIXELS_BETWEEN, crop_to
from deployments.images.masks import MaskFile, read_mask
from tests.support.bounds import no_image_above
from tests.support.images import file_of

LIMITS = Limits()
Size = tuple[int, int]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with no_image_above(MAX_PIXELS_BETWEEN):
        yield


def plane(size: Size) -> np.ndarray:
    return np.full((size[1], size[0], 3), 90, np.uint8)


@pytest.mark.parametrize("mode", [canvas.STRETCH, canvas.CROP, canvas.FILL])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((200, 1), (512, 512)),
        ((1, 200), (512, 512)),
        ((400, 1), (2048, 2048)),
        ((4000, 1), (2048, 2048)),
        ((1, 8000), (2048, 16)),
        ((8000, 1), (16, 2048)),
        ((1, 1_000_000), (2048, 16)),
        ((1_000_000, 1), (16, 2048)),
    ],
)
def test_flat_image_is_placed_without_a_huge_one_in_between(source: Size, size: Size, mode: int) -> None:
    placed = canvas.place(plane(source), size, mode)
    assert placed.shape == (size[1], size[0], 3)
    assert (placed == 90).all()


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
def test_flat_mask_is_scaled_to_any_source(size: Size) -> None:
    white = SourceImage(np.full((size[1], size[0], 3), 255, np.uint8), None, None, "png")
    for source in ((4000, 20), (20, 4000)):
        assert (read_mask(white, source) == 255).all()


@pytest.mark.parametrize("source", [(1, 1_000_000), (1_000_000, 1)])
def test_flat_image_is_cropped_to_any_size(source: Size) -> None:
    for size in ((2048, 16), (16, 2048)):
        assert crop_to(plane(source), size).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(("width", "height", "source"), [(None, 2048, (1_000_000, 1)), (2048, None, (1, 1_000_000))])
def test_image_may_not_be_enlarged_by_its_own_side(width: int | None, height: int | None, source: Size) -> None:
    body = Img2ImgBody(width=width, height=height)
    image = SourceImage(plane(source), None, None, "png")
    with pytest.raises(InvalidRequest, match="^(width|height) may not be null") as caught:
        prepare(image, LIMITS, 2048, None, partial(canvas.reshape, body, None))
    assert caught.value.param in ("width", "height")


def test_masked_part_of_a_flat_image_is_bounded() -> None:
    image = SourceImage(plane((100_000, 20)), None, None, "png")
    mask = np.zeros((20, 100_000), np.uint8)
    mask[4:9, 500:510] = 255
    body = Img2ImgBody(width=512, height=512)
    file = MaskFile(file_of(mask, "png"), "white")
    prepared = prepare(image, Limits(), 512, file, partial(canvas.reshape, body, file))
    assert prepared.restore(prepared.pixels).shape == image.pixels.shape
