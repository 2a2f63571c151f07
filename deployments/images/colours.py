"""The colours of an image as 8-bit RGB, upright: profiles applied, deep grey scaled to 8 bits, transparency aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from deployments.engine.request import Mask, Pixels
from deployments.images.strips import strips
from deployments.images.tiff import is_negative

MAX_PROFILE_BYTES = 8 * 1024**2  # a larger one costs exact colours only
RGB_MODES = ("RGB", "RGBA", "RGBX", "P", "PA")
WHITES = (1.0, 255.0, 65535.0)  # of numbers that do not say their range

ToRgb = Callable[[Image.Image], Pixels]


def read_colours(image: Image.Image) -> tuple[Pixels, Mask | None, bytes | None]:
    """RGB (height, width, 3), white where fully transparent; alpha (height, width) or None; the profile of this RGB.

    A profile of RGB is returned, None for sRGB; one of CMYK or grey is applied. `image` must be loaded.
    """
    to_rgb, profile = _to_rgb(image)
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if _has_alpha(image) else None
    for rows, band in _bands(image):
        rgb = _as_stored(pixels, orientation)[rows]
        rgb[:] = to_rgb(band)
        if alpha is not None:
            _as_stored(alpha, orientation)[rows] = band_alpha = _alpha(band)
            rgb[band_alpha == 0] = 255  # editors leave black or noise in transparent pixels
    return pixels, alpha, profile


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image in strips, which bounds the memory of what lies between the file and its RGB."""
    for rows in strips(*image.size):
        is_all = rows == slice(0, image.height)
        yield rows, image if is_all else image.crop((0, rows.start, image.width, rows.stop))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8."""
    with suppress(Exception):  # a damaged EXIF block is no reason to refuse a valid image
        orientation: int = image.getexif()[ExifTags.Base.Orientation]
        return orientation if orientation in range(1, 9) else 1
    return 1


def _as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an upright image as a camera stores it under an EXIF orientation."""
    turned = upright.swapaxes(0, 1) if orientation >= 5 else upright
    down = -1 if orientation in (3, 4, 6, 7) else 1
    right = -1 if orientation in (2, 3, 7, 8) else 1
    return turned[::down, ::right]


def _has_alpha(image: Image.Image) -> bool:
    """Whether pixels may be transparent. A BMP in which all are has an alpha channel that nobody filled."""
    if image.format == "BMP" and image.mode == "RGBA":
        return image.getchannel("A").getextrema() != (0, 0)
    return image.has_transparency_data


def _alpha(band: Image.Image) -> Mask:
    if band.mode.startswith("I"):
        return np.where(np.asarray(band) == band.info["transparency"], 0, 255).astype(np.uint8)
    return np.asarray(band.convert("RGBA").getchannel("A"))


def _to_rgb(image: Image.Image) -> tuple[ToRgb, bytes | None]:
    """The function from a band of the image to RGB, and the profile of that RGB."""
    profile: bytes = image.info.get("icc_profile") or b""
    space = profile[16:20] if len(profile) <= MAX_PROFILE_BYTES else b""
    grey = _grey_levels(profile if space == b"GRAY" else b"")
    if image.mode.startswith(("I", "F")):
        return partial(_deep_grey_to_rgb, white=_white(image), levels=_deep_levels(image, grey)), None
    if image.mode in ("L", "LA") and space == b"GRAY":
        return lambda band: np.take(grey, np.asarray(band.getchannel(0)), axis=0), None
    if image.mode == "LAB" or (image.mode, space) == ("CMYK", b"CMYK"):
        source = BytesIO(profile) if image.mode == "CMYK" else ImageCms.createProfile("LAB")
        if transform := _transform_to_srgb(source, image.mode):
            return lambda band: np.asarray(ImageCms.applyTransform(band, transform), np.uint8), None
    keeps_profile = space == b"RGB " and image.mode in RGB_MODES
    return _converted, profile if keeps_profile else None


def _converted(band: Image.Image) -> Pixels:
    """RGB by Pillow, which warns of palettes with degrees of transparency unless they become RGBA first."""
    if band.mode == "P" and isinstance(band.info.get("transparency"), bytes):
        band = band.convert("RGBA")
    return np.asarray(band.convert("RGB"), np.uint8)


def _transform_to_srgb(source: BytesIO | Any, mode: str) -> ImageCms.ImageCmsTransform | None:
    with suppress(ImageCms.PyCMSError, OSError):  # without a usable profile the colours are inexact
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    return None


def _grey_levels(profile: bytes) -> Pixels:
    """The RGB of each 8-bit grey, (256, 3)."""
    ramp = Image.linear_gradient("L").crop((0, 0, 1, 256))
    transform = _transform_to_srgb(BytesIO(profile), "L") if profile else None
    return np.asarray(ImageCms.applyTransform(ramp, transform) if transform else ramp.convert("RGB"))[:, 0]


def _deep_levels(image: Image.Image, grey: Pixels) -> Pixels:
    """The RGB of each 16-bit grey, (65536, 3)."""
    values = np.arange(65536) / 257
    levels = np.stack([np.interp(values, np.arange(256), channel) for channel in grey.T], axis=-1)
    return np.asarray(np.rint(levels[::-1] if is_negative(image) else levels), np.uint8)


def _deep_grey_to_rgb(band: Image.Image, white: float, levels: Pixels) -> Pixels:
    """Scale grey of 16 or more bits, from 0 to `white`, to 8 bits."""
    if band.mode.startswith("I;16"):
        values = np.asarray(band, np.uint16)
    else:
        values = np.rint(np.clip(_numbers(band) / white, 0, 1) * 65535).astype(np.uint16)
    return np.take(levels, values, axis=0)


def _white(image: Image.Image) -> float:
    """The first common white that is not below the brightest pixel, or this pixel itself."""
    if image.mode.startswith("I;16"):
        return 65535
    peak = max(float(_numbers(band).max()) for _, band in _bands(image))
    return next((white for white in WHITES if peak <= white), peak)


def _numbers(band: Image.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(band, np.float32), posinf=0.0)
