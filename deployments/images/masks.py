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
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import SourceImage, decode_image, image_errors_name

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
        grey = Image.fromarray(_on_black(image)).convert("L")
    elif alpha is None:
        raise InvalidRequest(f"mask: the image has no transparency, which mode {mode!r} needs", "mask")
    else:
        grey = Image.fromarray(alpha if mode == "opaque" else 255 - alpha)
    return np.array(grey.resize(size, Image.Resampling.BILINEAR))


def _on_black(image: SourceImage) -> Pixels:
    if image.alpha is None:
        return image.pixels
    flat = Image.new("RGB", image.size)
    flat.paste(Image.fromarray(image.pixels), mask=Image.fromarray(image.alpha))
    return np.array(flat)


def fit_mask(mask: Mask, fitted: Pixels) -> Mask:
    """The mask in the size of the fitted pixels."""
    height, width = fitted.shape[:2]
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))


def paste_back(source: Pixels, result: Pixels, mask: Mask, blur: float = MASK_BLUR) -> Pixels:
    """Mix `result` where the mask is white with `source` where it is black.

    The border is feathered inwards over about `blur` pixels, so pixels outside the mask keep the source's values.
    """
    feathered = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur)))
    share = np.minimum(mask, feathered)[..., None].astype(np.float32) / 255
    mixed: Pixels = np.rint(source * (1 - share) + result * share).astype(np.uint8)
    return mixed
