"""Masks: the part of an image that may change, in every convention of callers.

The rule for transparency is the mode's. `white`: what is light changes, and what is transparent counts as black.
`transparent`: what is transparent changes; `opaque`: what is not. Neither looks at colours. `auto`: `transparent` if
any pixel is, else `white`. The folder job, its table and the one-image command take `white`. The HTTP API takes `auto`
unless the caller names a mode; AUTOMATIC1111's takes `opaque` if any pixel is transparent, else `white`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import MASK_THRESHOLD, Mask, Pixels
from deployments.images.codec import SourceImage, decode_image, image_errors_name
from deployments.images.geometry import resize
from deployments.images.strips import lightness, strips

MaskMode = Literal["auto", "white", "transparent", "opaque"]
MASK_MODE_DESCRIPTION = (
    "The part of the mask that marks change: `white` (transparent counts as black), `transparent` or `opaque` "
    "(colours are ignored). `auto`: `transparent` if any pixel is, else `white`."
)
MASK_BLUR = 4.0  # pixels; as in AUTOMATIC1111's web UI
MAX_MASK_BLUR = 64


@dataclass(frozen=True, slots=True, eq=False)
class MaskFile:
    """A mask as a caller sends it: an image file, the part of it that marks change, and the feather in pixels.

    `image` is the decoded file, where its pixels were needed before.
    """

    data: bytes
    mode: MaskMode = "auto"
    blur: float = MASK_BLUR
    image: SourceImage | None = None


@dataclass(frozen=True, slots=True)
class ErasedPart:
    """The source as its own mask, by OpenAI's rule: what is transparent in it changes.

    A source without a fully transparent pixel has no such mask. `blur` is the feather in pixels.
    """

    blur: float = MASK_BLUR


MaskSource = MaskFile | ErasedPart


def mask_of(mask: MaskSource, source: SourceImage, limits: Limits) -> Mask | None:
    """The mask in the source's size; None for a source without an ErasedPart. Raises as decode_mask."""
    if isinstance(mask, MaskFile):
        return decode_mask(mask, source.size, limits)
    return None if source.alpha is None or source.alpha.all() else 255 - source.alpha


def decode_mask(mask: MaskFile, size: tuple[int, int], limits: Limits) -> Mask:
    """The mask of a source of `size` (width, height). Raises ImageError or InvalidRequest, both naming the mask."""
    return read_mask(mask.image or decode_mask_file(mask.data, limits), size, mask.mode)


def decode_mask_file(data: bytes, limits: Limits) -> SourceImage:
    """The image in a mask's file. Raises ImageError that names the mask."""
    with image_errors_name("mask"):
        return decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)


def read_mask(image: SourceImage, size: tuple[int, int], mode: MaskMode = "auto") -> Mask:
    """How much each pixel of a source of `size` (width, height) may change: 0 to 255, by the module's rule.

    Raises InvalidRequest if the mode needs transparency and the image has none.
    """
    alpha = image.alpha
    if mode == "auto":
        mode = "white" if alpha is None or alpha.min() == 255 else "transparent"
    if mode == "white":
        grey = lightness(image.pixels, alpha)
    elif alpha is None:
        raise InvalidRequest(f"mask: the image has no transparency, which mode {mode!r} needs", "mask")
    else:
        grey = alpha if mode == "opaque" else 255 - alpha
    return resize(grey, size)


def fit_mask(mask: Mask, fitted: Pixels) -> Mask:
    """The mask in the size of the fitted pixels. Raises InvalidRequest if it changes nothing, in either size."""
    require_change(mask)
    height, width = fitted.shape[:2]
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))
    require_change(small, f" in the model's size, {width}x{height}")
    return small


def require_change(mask: Mask, where: str = "") -> None:
    """Raise InvalidRequest if no pixel of the mask may change."""
    if (highest := int(mask.max())) < MASK_THRESHOLD:
        rule = f"{MASK_THRESHOLD} to 255 change, by the mask's mode"
        raise InvalidRequest(
            f"mask: nothing in it is to change{where}: its highest value is {highest} of 255; {rule}", "mask"
        )


def feather(mask: Mask, blur: float, alpha: Mask | None = None) -> Mask:
    """The result's share of each pixel, 0 to 255: the mask, faded inwards over about `blur` pixels of its border.

    Pixels outside the mask keep a share of 0. Where the source's `alpha` is transparent, nothing is faded: there is
    nothing to fade to. Raises InvalidRequest if the feather leaves nothing of the mask.
    """
    blurred = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur)))
    if alpha is not None:
        blurred = np.maximum(blurred, 255 - alpha)
    share: Mask = np.minimum(mask, blurred)
    if not share.any():
        raise InvalidRequest(f"mask: mask_blur {blur:g} leaves nothing of it; use a smaller one", "mask")
    return share


def paint_over(alpha: Mask, share: Mask) -> tuple[Mask, Mask]:
    """The share of the result in each pixel's colour, and the alpha of both together, for a source with `alpha`.

    The result is opaque in its share of the pixel, and the source fills the rest as far as its alpha goes.
    """
    weight, opacity = np.empty_like(share), np.empty_like(share)
    for rows in strips(share.shape[1], share.shape[0]):
        opacity[rows] = alpha[rows] + np.minimum(share[rows], 255 - alpha[rows])
        parts = share[rows].astype(np.uint16) * 255 + opacity[rows] // 2
        weight[rows] = parts // np.maximum(opacity[rows], 1)
    return weight, opacity
