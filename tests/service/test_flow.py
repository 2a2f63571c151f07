"""Preparing an image for a model and finishing what the model made of it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from deployments.config import Limits
from deployments.engine.request import Mask
from deployments.images.codec import ImageError, SourceImage
from deployments.images.flow import PreparedImage, Reshaped, decode, finish, prepare
from deployments.images.masks import MaskFile
from deployments.images.metadata import parse_parameters, read_parameters
from deployments.schemas import Settings
from tests.support.images import file_of, gradient, half_transparent, rgb_profile

LIMITS = Limits()
MAX_SIDE = 32
SETTINGS = Settings(
    model="m", prompt="a fox", negative_prompt=None, strength=0.5, guidance_scale=3.0, num_inference_steps=4, seed=1,
    sampler="ddim", max_side=MAX_SIDE,
)  # fmt: skip


def source() -> SourceImage:
    return SourceImage(gradient(96, 64), None, None, "png")


def left_half() -> MaskFile:
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    return MaskFile(file_of(mask, "png"), blur=0)


def model_result(prepared: PreparedImage, value: int = 7) -> np.ndarray:
    return np.full_like(prepared.pixels, value)


def test_model_gets_fitted_pixels_and_a_mask_of_their_size() -> None:
    prepared = prepare(source(), LIMITS, MAX_SIDE, left_half())
    assert prepared.mask is not None
    assert (prepared.pixels.shape, prepared.mask.shape) == ((21, 32, 3), (21, 32))
    assert (prepared.mask[:, :15] == 255).all()
    assert (prepared.mask[:, 17:] == 0).all()


def test_result_has_the_sources_size_alpha_and_profile_and_the_settings_inside() -> None:
    image = SourceImage(gradient(), half_transparent(), rgb_profile(), "png")
    prepared = prepare(image, LIMITS, MAX_SIDE)
    finished = finish(prepared, model_result(prepared), SETTINGS, "png")
    again = decode(finished.data, LIMITS)
    assert again.size == image.size == prepared.size
    assert again.alpha is not None
    np.testing.assert_array_equal(again.alpha, half_transparent())
    assert again.icc_profile == rgb_profile()
    assert (finished.pixels == 7).all()
    parameters = parse_parameters(read_parameters(finished.data) or "")
    assert (parameters["Prompt"], parameters["Size-1"], parameters["Size-2"]) == ("a fox", "32", "21")


def test_outside_the_mask_the_result_has_the_sources_pixels() -> None:
    prepared = prepare(source(), LIMITS, MAX_SIDE, left_half())
    pixels = finish(prepared, model_result(prepared), SETTINGS, "png").pixels
    assert (pixels[:, :48] == 7).all()
    np.testing.assert_array_equal(pixels[:, 48:], gradient(96, 64)[:, 48:])


@pytest.mark.parametrize(("mask", "held"), [(None, False), (left_half(), True)])
def test_full_size_pixels_are_held_with_a_mask_only(mask: MaskFile | None, held: bool) -> None:
    image = source()
    pixels = weakref.ref(image.pixels)
    prepared = prepare(image, LIMITS, MAX_SIDE, mask)
    del image
    gc.collect()
    assert (pixels() is not None) == held
    assert prepared.size == (96, 64)


def test_reshape_may_restore_the_result_itself() -> None:
    def reshape(image: SourceImage, mask: Mask | None) -> Reshaped:
        return Reshaped(image, mask, lambda pixels: np.repeat(pixels[:1, :1], 5, axis=0))

    prepared = prepare(source(), LIMITS, MAX_SIDE, left_half(), reshape)
    assert finish(prepared, model_result(prepared), SETTINGS, "png").pixels.shape == (5, 1, 3)


def test_damaged_mask_is_reported_as_the_masks() -> None:
    with pytest.raises(ImageError, match="^mask: ") as caught:
        prepare(source(), LIMITS, MAX_SIDE, MaskFile(b"no image"))
    assert caught.value.param == "mask"
