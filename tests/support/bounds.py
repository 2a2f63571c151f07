"""Bounds what Pillow's resize makes, its own image in between included, before it takes the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image

SUPPORT_ROWS = 8  # around the box that is scaled


@contextmanager
def no_image_above(most: int) -> Iterator[None]:
    """Fail where an image is scaled over one of more than `most` pixels, its source's and the result's."""
    resize = Image.Image.resize

    def counted(image: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        _, top, _, bottom = options.get("box") or (0, 0, *image.size)  # type: ignore[misc]
        rows = min(bottom - top + SUPPORT_ROWS, image.height)
        between = size[0] * rows if size[0] != image.width else 0  # Pillow scales the width first
        assert max(size[0] * size[1], between) <= max(most, image.width * image.height), f"{image.size} to {size}"
        return resize(image, size, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", counted)
        yield
