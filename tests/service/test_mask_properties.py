"""What holds for every mask: any mode of image, any size, any transparency, any rule, any feather."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import SourceImage
from deployments.images.flow import PreparedImage, prepare
from deployments.images.masks import MaskFile, MaskMode, read_mask
from tests.support.images import decode, file_of

LIMITS = Limits(min_side=1)
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
sides = st.integers(1, 24)
levels = st.sampled_from([0, 1, 100, 127, 128, 200, 254, 255])
blurs = st.sampled_from([0.0, 0.5, 4.0, 64.0])
modes: st.SearchStrategy[MaskMode] = st.sampled_from(get_args(MaskMode))


def planes(channels: int = 0) -> st.SearchStrategy[Any]:
    shapes = st.tuples(sides, sides, *([st.just(channels)] if channels else []))
    return shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=levels))


@st.composite
def mask_images(draw: st.DrawFn) -> Image.Image:
    """An image of any of Pillow's modes that PNG holds."""
    pixels = draw(planes(4))
    pixels[: (len(pixels) + 1) // 2] = draw(st.sampled_from([[255] * 4, [0] * 4]))
    image = Image.fromarray(pixels)
    mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    converted = image.convert(mode)
    if mode in ("L", "RGB", "P") and draw(st.booleans()):
        converted.info["transparency"] = 0 if mode != "RGB" else (0, 0, 0)
    return converted


@st.composite
def sources(draw: st.DrawFn) -> SourceImage:
    """An image as the decoder gives it, with and without transparency."""
    pixels = draw(planes(3))
    if draw(st.booleans()):
        return SourceImage(pixels, None, None, "png")
    alpha = draw(arrays(np.uint8, pixels.shape[:2], elements=levels))
    return decode(file_of(np.dstack([pixels, alpha]), "png"))


def changed(prepared: PreparedImage) -> Pixels:
    """The result of a model that answers with a colour that no source here has."""
    return prepared.restore(np.full_like(prepared.pixels, 77))


@quick
@given(sources(), mask_images(), modes, blurs, st.integers(8, 32))
def test_outside_the_mask_every_pixel_is_the_sources(
    source: SourceImage, image: Image.Image, mode: MaskMode, blur: float, max_side: int
) -> None:
    data = file_of(image, "png")
    try:
        prepared = prepare(source, LIMITS, max_side, MaskFile(data, mode, blur))
    except InvalidRequest as error:
        assert error.param == "mask"  # noqa: PT017 - the other examples do not raise
        return
    area, result = read_mask(decode(data), source.size, mode), changed(prepared)
    assert prepared.mask is not None
    assert prepared.mask.max() >= 128
    assert np.array_equal(result[area == 0], source.pixels[area == 0])
    assert (result != source.pixels).any()
    if blur == 0:
        assert (result[area == 255] == 77).all()
    if source.alpha is None:
        assert prepared.alpha is None
        return
    assert prepared.alpha is not None
    assert np.array_equal(prepared.alpha[area == 0], source.alpha[area == 0])
    assert (prepared.alpha >= source.alpha).all()
    erased = (area == 255) & (source.alpha == 0)
    assert (prepared.alpha[erased] == 255).all()
    assert (result[erased] == 77).all()


@quick
@given(planes(4), sides, sides)
def test_mask_and_its_twin_flattened_on_black_agree(pixels: Pixels, width: int, height: int) -> None:
    image = Image.fromarray(pixels)
    flat = Image.new("RGB", image.size)
    flat.paste(image, mask=image)
    ours, twins = (read_mask(decode(file_of(each, "png")), (width, height), "white") for each in (image, flat))
    assert np.array_equal(ours, twins)


@quick
@given(planes(4), sides, sides)
def test_transparent_and_opaque_are_each_others_inverse(pixels: Pixels, width: int, height: int) -> None:
    pixels[0, 0, 3] = 0  # else Pillow writes the same, but decoders may drop the channel
    image = decode(file_of(pixels, "png"))
    opaque, transparent = (read_mask(image, (width, height), mode).astype(int) for mode in ("opaque", "transparent"))
    assert np.abs(opaque + transparent - 255).max() <= 1


@quick
@given(st.tuples(sides, sides), st.data())
def test_inverted_mask_swaps_what_is_kept_and_what_is_changed(size: tuple[int, int], data: st.DataObject) -> None:
    pixels = data.draw(arrays(np.uint8, (*size, 3)))
    mask: Mask = data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 60, 255])))
    mask[0, 0], mask[-1, -1] = 255, 0 if mask.size > 1 else 255
    source = SourceImage(pixels, None, None, "png")
    try:
        one, other = (
            changed(prepare(source, LIMITS, 32, MaskFile(file_of(each, "png"), "white", 0)))
            for each in (mask, 255 - mask)
        )
    except InvalidRequest:  # all white
        assert mask.min() > 127 or mask.size == 1
        return
    assert np.abs(one.astype(int) + other - source.pixels - 77).max() <= 1
