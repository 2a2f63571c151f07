"""What the model sees of a picture and its mask, in the web UI's ways of resizing and inpainting, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import SourceImage, decode_image
from deployments.images.masks import MaskMode, about_the_mask, fit_mask
from deployments.schemas import Img2ImgResult
from deployments.service import Prepared

Plane = np.ndarray[Any, np.dtype[np.uint8]]  # a picture or a mask
Size = tuple[int, int]  # (width, height)
Box = tuple[int, int, int, int]  # left, top, right, bottom

STRETCH, CROP, FILL = range(3)  # resize_mode
FILL_FROM_AROUND = 0  # inpainting_fill
BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))  # radius in pixels, and how often it is laid on


class Canvas:
    """One request's picture on its way to the model and back.

    `reshape` goes to `Img2ImgService.prepare` and keeps what `whole` needs to put a part back where it was.
    """

    def __init__(self, body: Img2ImgBody, mask_mode: MaskMode) -> None:
        self._body = body
        self._rounds = body.mask_round and mask_mode == "opaque"
        self._whole: tuple[SourceImage, Mask, Box] | None = None

    def reshape(self, source: SourceImage, mask: Mask | None) -> tuple[SourceImage, Mask | None]:
        """The picture in the size that was asked for, or its masked part. Raises InvalidRequest for an empty mask."""
        source, mode = _on_white(source), self._body.resize_mode
        size = self._body.width or source.size[0], self._body.height or source.size[1]
        if mask is not None:
            mask = self._as_asked(mask)
            if self._body.inpaint_full_res:
                box = left, top, right, bottom = part_around(mask, self._body.inpaint_full_res_padding, size)
                self._whole, mode = (source, mask, box), FILL
                mask = mask[top:bottom, left:right]
                source = replace(source, pixels=source.pixels[top:bottom, left:right])
            mask = place(mask, size, mode)
        return replace(source, pixels=place(source.pixels, size, mode)), mask

    def _as_asked(self, mask: Mask) -> Mask:
        if self._rounds:
            mask = np.where(mask > 128, 255, 0).astype(np.uint8)
        if self._body.inpainting_mask_invert:
            mask = 255 - mask
        if not mask.any():
            raise InvalidRequest("mask: nothing of it says that anything is to be repainted", "mask")
        return mask

    def start(self, prepared: Prepared) -> Prepared:
        """With the masked part filled, if that is what to start from."""
        if prepared.mask is None or self._body.inpainting_fill != FILL_FROM_AROUND:
            return prepared
        return replace(prepared, fitted=fill(prepared.fitted, fit_mask(prepared.mask, prepared.fitted)))

    def whole(self, prepared: Prepared, result: Img2ImgResult) -> tuple[Prepared, Img2ImgResult]:
        """What is to be encoded: where only a part was made, the whole picture with that part in it."""
        if self._whole is None:
            return prepared, result
        source, mask, (left, top, right, bottom) = self._whole
        pixels = source.pixels.copy()
        pixels[top:bottom, left:right] = take_out(result.pixels, (right - left, bottom - top))
        return replace(prepared, source=source, mask=mask), replace(result, pixels=pixels)


def mask_mode_of(mask: bytes, limits: Limits) -> MaskMode:
    """A mask with any transparency goes by what is opaque, another one by what is white. Raises ImageError."""
    with about_the_mask():
        alpha = decode_image(mask, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels).alpha
    return "white" if alpha is None or alpha.min() == 255 else "opaque"


def _on_white(source: SourceImage) -> SourceImage:
    if source.alpha is None:
        return source
    share = source.alpha[..., None].astype(np.float32) / 255
    pixels = np.rint(source.pixels * share + 255 * (1 - share)).astype(np.uint8)
    return replace(source, pixels=pixels, alpha=None)


def place(plane: Plane, size: Size, mode: int) -> Plane:
    """Stretched, cropped or filled with its edges to `size`."""
    (width, height), (wide, high) = size, _scaled(_size(plane), size, mode)
    left, top = width // 2 - wide // 2, height // 2 - high // 2
    scaled = _resize(plane, (wide, high))
    cut = scaled[max(-top, 0) :, max(-left, 0) :][:height, :width]
    around = [
        (max(start, 0), whole - max(start, 0) - part)
        for start, whole, part in zip((top, left), (height, width), cut.shape, strict=False)
    ]
    return np.pad(cut, [*around, (0, 0)][: plane.ndim], mode="edge")


def take_out(pixels: Pixels, size: Size) -> Pixels:
    """What `place` made with FILL, back in its own `size`."""
    (width, height), (wide, high) = _size(pixels), _scaled(size, _size(pixels), FILL)
    left, top = width // 2 - wide // 2, height // 2 - high // 2
    return _resize(pixels[top : top + high, left : left + wide], size)


def _size(plane: Plane) -> Size:
    return plane.shape[1], plane.shape[0]


def _scaled(content: Size, size: Size, mode: int) -> Size:
    """The content's size once it is stretched to `size`, covers it, or lies inside it."""
    if mode == STRETCH:
        return size
    (wide, high), (width, height) = content, size
    is_wider = wide * height > high * width
    if is_wider == (mode == CROP):
        return max(1, wide * height // high), height
    return width, max(1, high * width // wide)


def _resize(plane: Plane, size: Size) -> Plane:
    if _size(plane) == size:
        return plane
    resample = Image.Resampling.LANCZOS if plane.ndim == 3 else Image.Resampling.BILINEAR  # a mask must not ring
    return np.array(Image.fromarray(np.ascontiguousarray(plane)).resize(size, resample))


def part_around(mask: Mask, padding: int, size: Size) -> Box:
    """The smallest part with all of the mask and `padding` pixels around it, grown to the shape of `size`."""
    width, height = _size(mask)
    box = Image.fromarray(mask).getbbox()
    assert box is not None, "the mask is not empty"
    left, right = max(box[0] - padding, 0), min(box[2] + padding, width)
    top, bottom = max(box[1] - padding, 0), min(box[3] + padding, height)
    wide = max(right - left, (bottom - top) * size[0] // size[1])
    high = max(bottom - top, (right - left) * size[1] // size[0])
    left, right = _grown(left, right, wide, width)
    top, bottom = _grown(top, bottom, high, height)
    return left, top, right, bottom


def _grown(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """`length` around start to end, moved and if need be cut to lie within 0 to `limit`."""
    length = min(length, limit)
    start = min(max(start - (length - (end - start)) // 2, 0), limit - length)
    return start, start + length


def fill(pixels: Pixels, mask: Mask) -> Pixels:
    """What is masked, filled from around it: ever finer blurs of the rest, one over the other."""
    rest = Image.fromarray(np.dstack([pixels, 255 - mask])).convert("RGBa")  # colours count as much as they show
    filled = Image.new("RGBA", rest.size)
    for radius, times in BLURS:
        blurred = rest.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            filled.alpha_composite(blurred)
    return np.array(filled.convert("RGB"))
