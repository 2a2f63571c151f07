"""A mask that changes nothing is refused while the image is prepared, before any step."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from deployments.api.webui import canvas
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask
from deployments.images.codec import SourceImage
from deployments.images.flow import PreparedImage, no_reshape, prepare
from deployments.images.masks import MaskFile, MaskMode
from tests.support.images import file_of, gradient

LIMITS = Limits()


def labels(value: int, box: tuple[slice, slice] = np.s_[16:48, 24:72]) -> Mask:
    """A mask of 0 and `value`, for a source of 96 x 64."""
    mask = np.zeros((64, 96), np.uint8)
    mask[box] = value
    return mask


def prepared(mask: MaskFile, max_side: int = 96, reshape: Any = no_reshape) -> PreparedImage:
    return prepare(SourceImage(gradient(96, 64), None, None, "png"), LIMITS, max_side, mask, reshape)


@pytest.mark.parametrize("value", [0, 1, 127])
@pytest.mark.parametrize("mode", ["auto", "white"])
def test_mask_without_white_is_refused(value: int, mode: MaskMode) -> None:
    with pytest.raises(InvalidRequest, match=f"^mask: nothing in it is to change: its highest value is {value} of 255"):
        prepared(MaskFile(file_of(labels(value), "png"), mode))


@pytest.mark.parametrize(("mode", "alpha"), [("opaque", 0), ("transparent", 255), ("opaque", 127)])
def test_mask_without_what_its_mode_needs_is_refused(mode: MaskMode, alpha: int) -> None:
    mask = np.dstack([np.full((64, 96, 3), 255, np.uint8), np.full((64, 96), alpha, np.uint8)])
    with pytest.raises(InvalidRequest) as caught:
        prepared(MaskFile(file_of(mask, "png"), mode))
    assert caught.value.param == "mask"


def test_mask_that_vanishes_in_the_models_size_is_refused() -> None:
    speck = MaskFile(file_of(labels(255, np.s_[10:12, 10:12]), "png"), blur=0)
    assert prepared(speck).mask is not None
    with pytest.raises(InvalidRequest, match="in the model's size, 24x16"):
        prepared(speck, max_side=24)


def test_mask_that_its_feather_eats_up_is_refused() -> None:
    dot = file_of(labels(255, np.s_[10:12, 10:12]), "png")
    assert prepared(MaskFile(dot, blur=1)).mask is not None
    with pytest.raises(InvalidRequest, match="^mask: mask_blur 64 leaves nothing of it"):
        prepared(MaskFile(dot, blur=64))


@pytest.mark.parametrize("full_res", [True, False])
@pytest.mark.parametrize("value", [0, 1, 127])
def test_web_uis_mask_without_white_is_refused(value: int, full_res: bool) -> None:
    body = Img2ImgBody(width=96, height=64, inpaint_full_res=full_res)
    file = canvas.open_mask(file_of(labels(value), "png"), 4, LIMITS)
    with pytest.raises(InvalidRequest, match="^mask: nothing in it is to change") as caught:
        prepared(file, reshape=partial(canvas.reshape, body, file))
    assert caught.value.param == "mask"
