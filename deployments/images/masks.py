"""Masks: which part of a picture may change, read in every convention that callers have, and held to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import ImageError, SourceImage

MaskMode = Literal["auto", "white", "transparent", "opaque"]
MASK_BLUR = 4.0  # pixels; as in AUTOMATIC1111's web UI
MAX_MASK_BLUR = 64.0


def read_mask(picture: SourceImage, size: tuple[int, int], mode: MaskMode = "auto") -> Mask:
    """How much of each pixel may change, of 255, for a source of `size` (width, height).

    `mode` says which part of `picture` stands for change: what is white, transparent (OpenAI) or opaque; `auto` is
    transparent where anything is, else white. Raises InvalidRequest for a mask that has no transparency to go by.
    """
    alpha = picture.alpha
    if mode == "auto":
        mode = "white" if alpha is None or alpha.min() == 255 else "transparent"
    if mode == "white":
        grey = Image.fromarray(picture.pixels).convert("L")
    elif alpha is None:
        raise InvalidRequest(f"mask: it has no transparency, and what is {mode} in it is to change", "mask")
    else:
        grey = Image.fromarray(alpha if mode == "opaque" else 255 - alpha)
    return np.array(grey.resize(size, Image.Resampling.BILINEAR))


@contextmanager
def about_the_mask() -> Iterator[None]:
    """What is wrong with a picture in here is wrong with the mask, and says so."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"mask: {error.message}", "mask") from error


def fit_mask(mask: Mask, fitted: Pixels) -> Mask:
    """The mask in the size of the picture as the model gets it."""
    height, width = fitted.shape[:2]
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))


def paste_back(source: Pixels, made: Pixels, mask: Mask, blur: float = MASK_BLUR) -> Pixels:
    """`made` where the mask is white and `source`, untouched, where it is black.

    The border is feathered inwards over about `blur` pixels, so that nothing outside the mask changes.
    """
    feathered = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur)))
    share = np.minimum(mask, feathered)[..., None].astype(np.float32) / 255
    mixed: Pixels = np.rint(source * (1 - share) + made * share).astype(np.uint8)
    return mixed
