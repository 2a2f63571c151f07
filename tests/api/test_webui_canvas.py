"""The web UI's ways of resizing and inpainting: pure functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deployments.api.webui.canvas import (
    CROP,
    FILL,
    STRETCH,
    Box,
    Size,
    fill,
    open_mask,
    part_around,
    place,
    reshape,
    take_out,
)
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.images.codec import SourceImage
from deployments.images.masks import MaskFile, decode_mask
from tests.support.images import file_of, gradient
from tests.support.reference import smooth_image

SOURCE = smooth_image(5, 64, 48)
LIMITS = Limits()


def lanczos(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def test_stretched_image_is_pillows() -> None:
    assert np.array_equal(place(SOURCE, (40, 40), STRETCH), np.array(lanczos(Image.fromarray(SOURCE), (40, 40))))


@pytest.mark.parametrize(("size", "scaled"), [((40, 40), (53, 40)), ((96, 48), (96, 72)), ((32, 24), (32, 24))])
def test_cropped_image_covers_the_size_around_the_centre(size: Size, scaled: Size) -> None:
    covering = lanczos(Image.fromarray(SOURCE), scaled)
    left, top = scaled[0] // 2 - size[0] // 2, scaled[1] // 2 - size[1] // 2
    expected = covering.crop((left, top, left + size[0], top + size[1]))
    assert np.array_equal(place(SOURCE, size, CROP), np.array(expected))


@pytest.mark.parametrize(("size", "scaled"), [((40, 40), (40, 30)), ((96, 48), (64, 48)), ((32, 24), (32, 24))])
def test_filled_image_lies_inside_between_its_own_edges(size: Size, scaled: Size) -> None:
    placed = place(SOURCE, size, FILL)
    assert (placed.shape[1], placed.shape[0]) == size
    left, top = size[0] // 2 - scaled[0] // 2, size[1] // 2 - scaled[1] // 2
    inside = placed[top : top + scaled[1], left : left + scaled[0]]
    assert np.array_equal(inside, np.array(lanczos(Image.fromarray(SOURCE), scaled)))
    right, bottom = size[0] - left - scaled[0], size[1] - top - scaled[1]
    assert np.array_equal(placed, np.pad(inside, ((top, bottom), (left, right), (0, 0)), "edge"))


@pytest.mark.parametrize("size", [(64, 64), (100, 48), (80, 96)])
def test_part_comes_back_from_where_it_was_put(size: Size) -> None:
    smooth = gradient(64, 48)
    back = take_out(place(smooth, size, FILL), (64, 48))
    assert back.shape == smooth.shape
    assert np.abs(back.astype(int) - smooth).max() <= 12
    assert np.abs(back.astype(int) - smooth).mean() < 1.5


@pytest.mark.parametrize(
    ("padding", "size", "part"),
    [
        (0, (64, 64), (20, 10, 40, 30)),
        (4, (64, 64), (16, 6, 44, 34)),
        (0, (128, 64), (10, 10, 50, 30)),
        (0, (64, 128), (20, 0, 40, 40)),
        (0, (640, 64), (0, 10, 64, 30)),
        (100, (64, 64), (0, 0, 64, 48)),
    ],
)
def test_masked_part_grows_to_the_shape_of_the_size_within_the_image(padding: int, size: Size, part: Box) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:40] = 255
    assert part_around(mask, padding, size) == part


def test_masked_part_is_filled_with_what_is_around_it() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 0, 0), (0, 0, 200)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 4:28] = 255
    pixels[mask == 255] = (0, 255, 0)
    filled = fill(pixels, mask)
    assert np.array_equal(filled[mask == 0], pixels[mask == 0])
    assert (filled[mask == 255][:, 1] == 0).all()
    assert (filled[16:48, 4:12, 0] > 100).all()


FILE = MaskFile(b"", "opaque")


def mask_of_a_part() -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:40, 16:48], mask[20:24, 20:24] = 255, 100
    return mask


def body(**fields: object) -> Img2ImgBody:
    return Img2ImgBody.model_validate({"width": 64, "height": 48} | fields)


def source(alpha: np.ndarray | None = None) -> SourceImage:
    return SourceImage(SOURCE, alpha, None, "png")


@pytest.mark.parametrize(
    ("fields", "inside", "outside", "grey"),
    [
        ({}, 255, 0, 0),
        ({"mask_round": False}, 255, 0, 100),
        ({"inpainting_mask_invert": 1, "mask_round": False}, 0, 255, 155),
    ],
)
def test_mask_is_rounded_and_inverted_as_asked(fields: dict[str, object], inside: int, outside: int, grey: int) -> None:
    mask = reshape(body(inpaint_full_res=False, **fields), FILE, source(), mask_of_a_part()).mask
    assert mask is not None
    assert (mask[10, 18], mask[0, 0], mask[22, 22]) == (inside, outside, grey)


def test_mask_that_leaves_nothing_to_repaint_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        reshape(body(), FILE, source(), np.zeros((48, 64), np.uint8))
    assert caught.value.param == "mask"


def test_only_the_masked_part_goes_to_the_model_in_the_whole_size() -> None:
    reshaped = reshape(body(width=64, height=64, inpaint_full_res=True), FILE, source(), mask_of_a_part())
    assert np.array_equal(reshaped.source.pixels, place(SOURCE[8:40, 16:48], (64, 64), STRETCH))
    assert reshaped.mask is not None
    assert reshaped.mask.shape == (64, 64)


def test_repainted_part_is_put_back_where_it_was() -> None:
    reshaped = reshape(body(width=64, height=64), MaskFile(b"", "opaque", 0), source(), mask_of_a_part())
    assert reshaped.restore is not None
    whole = reshaped.restore(np.full((64, 64, 3), 7, np.uint8))
    repainted = mask_of_a_part() == 255
    assert (whole[repainted] == 7).all()
    assert np.array_equal(whole[mask_of_a_part() == 0], SOURCE[mask_of_a_part() == 0])


def test_transparent_image_lies_on_white() -> None:
    alpha = np.full((48, 64), 51, np.uint8)
    reshaped = reshape(body(width=None, height=None), None, source(alpha), None)
    assert reshaped.source.alpha is None
    assert np.array_equal(reshaped.source.pixels, np.rint(SOURCE * 0.2 + 255 * 0.8).astype(np.uint8))


def test_mask_goes_by_what_is_opaque_only_where_anything_is_transparent() -> None:
    grey = Image.fromarray(gradient(16, 16)).convert("L")
    opaque, painted = grey.convert("RGBA"), grey.convert("RGBA")
    painted.putalpha(grey)
    modes = [open_mask(file_of(mask, "png"), 4, LIMITS).mode for mask in (grey, opaque, painted)]
    assert modes == ["white", "white", "opaque"]


def test_mask_is_decoded_once() -> None:
    mask = open_mask(file_of(Image.fromarray(mask_of_a_part()), "png"), 4, LIMITS)
    assert np.array_equal(decode_mask(replace(mask, data=b""), (64, 48), LIMITS), mask_of_a_part())
