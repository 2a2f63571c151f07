"""An erased part of an image that is painted becomes opaque; everywhere else the image keeps its transparency."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.config import Limits
from deployments.engine.request import Mask
from deployments.images.codec import SourceImage
from deployments.images.flow import FinishedImage, finish, prepare
from deployments.images.masks import ErasedPart, MaskFile, MaskSource
from tests.service.test_flow import SETTINGS
from tests.support.images import decode, file_of, gradient

LIMITS = Limits()
BOX = np.s_[16:48, 24:72]
PAINT = 7


def erased(value: int = 0) -> SourceImage:
    """An image of 96 x 64 whose box has `value` of alpha, as the decoder gives it."""
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[BOX] = value
    return decode(file_of(np.dstack([gradient(96, 64), alpha]), "png"))


def mask_of(source: SourceImage) -> MaskFile:
    return MaskFile(file_of(np.dstack([source.pixels, source.alpha]), "png"))


def painted(source: SourceImage, mask: MaskSource | None) -> FinishedImage:
    prepared = prepare(source, LIMITS, 96, mask)
    return finish(prepared, np.full_like(prepared.pixels, PAINT), SETTINGS, "png")


def outside() -> np.ndarray:
    where = np.ones((64, 96), bool)
    where[BOX] = False
    return where


@pytest.mark.parametrize("by_itself", [True, False])
def test_image_that_is_its_own_mask_is_painted_where_it_is_erased(by_itself: bool) -> None:
    source = erased()
    result = decode(painted(source, ErasedPart() if by_itself else mask_of(source)).data)
    assert result.alpha is None or (result.alpha == 255).all()
    assert (result.pixels[BOX] == PAINT).all()  # to the border: there is nothing to feather towards
    np.testing.assert_array_equal(result.pixels[outside()], source.pixels[outside()])


def test_soft_border_of_an_erased_part_is_filled_up_by_the_paint() -> None:
    source = erased(0)
    assert source.alpha is not None
    source.alpha[:, 20:24] = 100
    result = decode(painted(source, ErasedPart(blur=0)).data)
    assert result.alpha is None or (result.alpha == 255).all()
    mixed = np.rint(source.pixels[0, 20:24] * (100 / 255) + PAINT * (155 / 255))
    np.testing.assert_allclose(result.pixels[0, 20:24], mixed, atol=1)


def test_image_keeps_its_transparency_outside_of_the_mask_and_without_one() -> None:
    source = erased()
    mask: Mask = np.zeros((64, 96), np.uint8)
    mask[:, 48:] = 255
    result = decode(painted(source, MaskFile(file_of(mask, "png"), blur=0)).data)
    assert result.alpha is not None
    assert source.alpha is not None
    np.testing.assert_array_equal(result.alpha[:, :48], source.alpha[:, :48])
    assert (result.alpha[:, 48:] == 255).all()
    np.testing.assert_array_equal(decode(painted(source, None).data).alpha, source.alpha)


def test_soft_mask_over_an_erased_part_is_paint_of_that_opacity() -> None:
    source = erased()
    mask: Mask = np.zeros((64, 96), np.uint8)
    mask[BOX] = 160
    result = decode(painted(source, MaskFile(file_of(mask, "png"), blur=0)).data)
    assert result.alpha is not None
    assert (result.alpha[BOX] == 160).all()
    assert (result.pixels[BOX] == PAINT).all()


@pytest.mark.parametrize("alpha", [1, 255])
def test_image_without_an_erased_part_has_no_mask_of_its_own(alpha: int) -> None:
    assert prepare(erased(alpha), LIMITS, 96, ErasedPart()).mask is None
    assert prepare(SourceImage(gradient(96, 64), None, None, "png"), LIMITS, 96, ErasedPart()).mask is None
