"""What holds for every size: bounds, multiples, the way back, and no large image in between."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.api.webui import canvas
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.images.codec import SourceImage, UnusableImage
from deployments.images.flow import prepare
from deployments.images.geometry import MAX_PIXELS_BETWEEN, crop_to, fit_pixels, pad_to_multiple, restore_size
from deployments.images.masks import MaskFile
from tests.support.bounds import no_image_above
from tests.support.images import file_of

Size = tuple[int, int]
quick = settings(max_examples=30, deadline=None, database=None, derandomize=True)
short, long = st.integers(1, 12), st.integers(1000, 50_000)
sizes = st.one_of(st.tuples(st.integers(1, 120), st.integers(1, 120)), st.tuples(short, long), st.tuples(long, short))
sides = st.integers(16, 2048)
MODES = st.sampled_from([canvas.STRETCH, canvas.CROP, canvas.FILL])


def plane(size: Size, *channels: int) -> np.ndarray:
    return np.full((size[1], size[0], *channels), 90, np.uint8)


def size_of(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]


@quick
@given(sizes, sides, st.integers(1, 64))
def test_fitted_image_is_within_its_bounds_and_comes_back_in_its_size(size: Size, max_side: int, least: int) -> None:
    image = plane(size, 3)
    scale = min(1, max_side / max(size))
    with no_image_above(MAX_PIXELS_BETWEEN):
        try:
            fitted = fit_pixels(image, max_side=max_side, min_side=least)
        except UnusableImage:
            assert min(size) * scale < least + 0.5
            return
        assert least <= min(size_of(fitted)) <= max(size_of(fitted)) <= min(max_side, max(size))
        assert all(abs(side - whole * scale) <= 1 for side, whole in zip(size_of(fitted), size, strict=True))
        assert size_of(restore_size(fitted, size)) == size


@quick
@given(sizes, st.sampled_from([1, 8, 16, 64]), st.sampled_from([(), (3,)]))
def test_padded_image_has_multiples_and_begins_with_the_image(size: Size, multiple: int, channels: Size) -> None:
    image = np.arange(size[0] * size[1] * (3 if channels else 1), dtype=np.uint8).reshape(size[1], size[0], *channels)
    padded = pad_to_multiple(image, multiple)
    assert all(0 <= side - whole < multiple for side, whole in zip(size_of(padded), size, strict=True))
    assert all(side % multiple == 0 for side in size_of(padded))
    assert np.array_equal(padded[: size[1], : size[0]], image)


@quick
@given(sizes, sides, sides, MODES, st.sampled_from([(), (3,)]))
@example((4000, 1), 2048, 2048, canvas.CROP, (3,))
@example((1, 100_000), 2048, 16, canvas.STRETCH, ())
def test_placed_image_has_the_size_and_its_content_the_way_back(
    size: Size, width: int, height: int, mode: int, channels: Size
) -> None:
    with no_image_above(MAX_PIXELS_BETWEEN):
        placed = canvas.place(plane(size, *channels), (width, height), mode)
        assert size_of(placed) == size_of(crop_to(plane(size, *channels), (width, height))) == (width, height)
        assert (placed == 90).all()
        assert size_of(canvas.take_out(plane((width, height), 3), size)) == size


@st.composite
def boxes(draw: st.DrawFn, size: Size) -> tuple[int, int, int, int]:
    left, top = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
    return left, top, draw(st.integers(left + 1, size[0])), draw(st.integers(top + 1, size[1]))


@quick
@given(sizes.flatmap(lambda size: st.tuples(st.just(size), boxes(size))), st.integers(0, 10_000), sides, sides)
def test_part_around_a_mask_holds_it_and_lies_in_the_image(
    drawn: tuple[Size, tuple[int, int, int, int]], padding: int, width: int, height: int
) -> None:
    size, (left, top, right, bottom) = drawn
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[top:bottom, left:right] = 255
    part = canvas.part_around(mask, padding, (width, height))
    assert 0 <= part[0] <= left < right <= part[2] <= size[0]
    assert 0 <= part[1] <= top < bottom <= part[3] <= size[1]


@quick
@given(
    sizes, st.one_of(st.none(), sides), st.one_of(st.none(), sides), MODES, st.booleans(), st.one_of(st.none(), sizes)
)
def test_every_web_ui_request_is_prepared_within_bounds_or_refused(
    size: Size, width: int | None, height: int | None, mode: int, full_res: bool, mask_size: Size | None
) -> None:
    body = Img2ImgBody(width=width, height=height, resize_mode=mode, inpaint_full_res=full_res)
    mask = None if mask_size is None else MaskFile(file_of(plane(mask_size) + 165, "png"), "white", 0)
    source, limits = SourceImage(plane(size, 3), None, None, "png"), Limits()
    with no_image_above(MAX_PIXELS_BETWEEN):
        try:
            prepared = prepare(source, limits, 2048, mask, partial(canvas.reshape, body, mask))
        except (UnusableImage, canvas.InvalidRequest):
            return
        assert max(size_of(prepared.pixels)) <= 2048
        restored = prepared.restore(prepared.pixels)
    assert restored.size // 3 <= max(MAX_PIXELS_BETWEEN, size[0] * size[1])
