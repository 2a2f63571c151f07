"""The sizes of an image: scaled to a model's limits, padded to its multiples, restored, cropped."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from deployments.engine.request import Pixels
from deployments.images.codec import UnusableImage
from deployments.images.strips import to_array

# Of an image that is larger than what it is made from and what is made of it: 64 MB. Only very flat images come near.
MAX_PIXELS_BETWEEN = 2**24


def fit_pixels(pixels: Pixels, *, max_side: int, min_side: int) -> Pixels:
    """Scale down to a longest side of `max_side`, keeping the aspect ratio. Smaller pixels are returned unchanged.

    Raises UnusableImage if the shorter side would be below `min_side`.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if min(size) < min_side:
        raise UnusableImage(
            f"the image is {width}x{height}, scaled to max_side {max_side} it is {size[0]}x{size[1]}: "
            f"the shorter side must have at least {min_side} pixels"
        )
    return restore_size(pixels, size)


def pad_to_multiple(pixels: np.ndarray[Any, Any], multiple: int) -> np.ndarray[Any, Any]:
    """Mirror the right and bottom edges until both sides are multiples of `multiple`."""
    height, width = pixels.shape[:2]
    if height % multiple == 0 and width % multiple == 0:
        return pixels
    return np.pad(pixels, ((0, -height % multiple), (0, -width % multiple), (0, 0))[: pixels.ndim], mode="symmetric")


def restore_size(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to `size` (width, height) with LANCZOS. Pixels of that size are returned unchanged."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return resize(pixels, size)


def resize(plane: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Pixels, alpha or a mask stretched to `size` (width, height)."""
    image, resample = Image.fromarray(np.ascontiguousarray(plane)), _resample(plane)
    width, height = size
    # Pillow scales the width first, to width x image.height. For a tall image that becomes wide, the height is first.
    if width > image.width and height < image.height and width * image.height > MAX_PIXELS_BETWEEN:
        image = image.resize((image.width, height), resample)
    return to_array(image.resize(size, resample))


def crop_to(pixels: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Crop pixels, alpha or a mask around the centre to the aspect ratio of `size` (width, height), then scale."""
    return to_array(ImageOps.fit(Image.fromarray(pixels), size, _resample(pixels)))


def _resample(plane: np.ndarray[Any, Any]) -> Image.Resampling:
    return Image.Resampling.LANCZOS if plane.ndim == 3 else Image.Resampling.BILINEAR  # a mask must not ring
