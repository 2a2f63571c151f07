"""What Pillow leaves open of TIFF files: 16-bit and float scans in which 0 is white, and parts that overlap."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag and its value
MAX_LAYERS = 8  # how often the parts may cover the image: once for each band that is stored apart

# Pillow knows this kind, 16-bit grey in which 0 is white, in the other byte order only.
TiffImagePlugin.OPEN_INFO[TiffImagePlugin.MM, 0, (1,), 1, (16,), ()] = ("I;16B", "I;16B")


def is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in this image of 16 bits or more. Pillow inverts those of 8 bits itself."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def check_parts(image: Image.Image) -> None:
    """Raise ValueError if the parts of an image that is not loaded cover it more often than bands need."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        extents = [extents for _, extents, *_ in image.tile if extents is not None]
        if (
            sum((right - left) * (bottom - top) for left, top, right, bottom in extents)
            > MAX_LAYERS * image.width * image.height
        ):
            raise ValueError("its parts overlap")
