"""Large images in strips of rows: Pillow holds 4 bytes for an RGB pixel, and its conversions hold several copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

STRIP_PIXELS = 2**18  # at 4 bytes each well below memory.LARGE_BYTES, so that threads reuse the memory of a strip
Plane = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width) or (height, width, channels)


def strips(width: int, height: int) -> Iterator[slice]:
    """Slices of rows, of about STRIP_PIXELS pixels each, that cover an image."""
    rows = max(1, STRIP_PIXELS // max(width, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def to_array(image: Image.Image) -> Plane:
    """`np.array(image)` with one copy of the pixels in memory instead of three."""
    bands = len(image.getbands())
    array: Plane = np.empty((image.height, image.width, bands)[: 2 if bands == 1 else 3], np.uint8)
    for rows in strips(*image.size):
        array[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
    return array


def mix(source: Plane, result: Plane, share: Plane) -> Plane:
    """`source` and `result` by the result's share of each pixel, (height, width), rounded to the nearest value."""
    mixed: Plane = np.empty(source.shape, np.uint8)
    for rows in strips(source.shape[1], source.shape[0]):
        layers = (Image.fromarray(plane[rows]) for plane in (result, source, share))
        mixed[rows] = np.asarray(Image.composite(*layers))
    return mixed


def lightness(pixels: Plane, alpha: Plane | None) -> Plane:
    """The luminance, (height, width), of RGB pixels on black."""
    grey: Plane = np.empty(pixels.shape[:2], np.uint8)
    for rows in strips(pixels.shape[1], pixels.shape[0]):
        part = pixels[rows] if alpha is None else mix(np.zeros_like(pixels[rows]), pixels[rows], alpha[rows])
        grey[rows] = np.asarray(Image.fromarray(part).convert("L"))
    return grey
