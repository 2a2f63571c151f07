"""The web UI's resize and inpaint modes: the image and mask that the model gets, and the inverse for its result."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import SourceImage
from deployments.images.flow import PreparedImage, Reshaped
from deployments.images.geometry import MAX_PIXELS_BETWEEN, crop_to, resize
from deployments.images.masks import MaskFile, MaskMode, decode_mask_file, feather, require_change
from deployments.images.strips import Plane, mix

Size = tuple[int, int]  # (width, height)
Box = tuple[int, int, int, int]  # left, top, right, bottom

STRETCH, CROP, FILL = range(3)  # resize_mode
FILL_FROM_AROUND = 0  # inpainting_fill
BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))  # radius in pixels, number of layers


def reshape(body: Img2ImgBody, file: MaskFile | None, source: SourceImage, mask: Mask | None) -> Reshaped:
    """The image in the requested size, or its masked part. Raises InvalidRequest for a mask that changes nothing."""
    source = _on_white(source)
    size = _size_of(body, source)
    if file is None or mask is None:
        return Reshaped(replace(source, pixels=place(source.pixels, size, body.resize_mode)), None)
    mask = _edit_mask(body, file.mode, mask)
    if body.inpaint_full_res:
        return _masked_part(source, mask, file.blur, part_around(mask, body.inpaint_full_res_padding, size), size)
    placed = replace(source, pixels=place(source.pixels, size, body.resize_mode))
    return Reshaped(placed, place(mask, size, body.resize_mode))


def _size_of(body: Img2ImgBody, source: SourceImage) -> Size:
    """The requested size. Raises InvalidRequest if a side that is the image's own makes it too large."""
    width, height = body.width or source.size[0], body.height or source.size[1]
    if width * height > max(source.size[0] * source.size[1], MAX_PIXELS_BETWEEN):
        param = "width" if body.width is None else "height"
        raise InvalidRequest(
            f"{param} may not be null: {width}x{height} has more than {MAX_PIXELS_BETWEEN} pixels", param
        )
    return width, height


def _edit_mask(body: Img2ImgBody, mode: MaskMode, mask: Mask) -> Mask:
    """Rounded and inverted as the request says. Raises InvalidRequest."""
    if body.mask_round and mode == "opaque":
        mask = np.where(mask > 128, np.uint8(255), np.uint8(0))
    if body.inpainting_mask_invert:
        mask = 255 - mask
    require_change(mask)
    return mask


def _masked_part(source: SourceImage, mask: Mask, blur: float, box: Box, size: Size) -> Reshaped:
    """The part of the image within `box`, in `size`. The result is the whole image with that part repainted."""
    left, top, right, bottom = box
    part = place(source.pixels[top:bottom, left:right], size, FILL)
    share = feather(mask, blur)[top:bottom, left:right].copy()  # not the whole
    restore = partial(_restore_part, source.pixels, share, box)
    return Reshaped(replace(source, pixels=part), place(mask[top:bottom, left:right], size, FILL), restore)


def _restore_part(source: Pixels, share: Mask, box: Box, part: Pixels) -> Pixels:
    left, top, right, bottom = box
    whole = source.copy()
    within = whole[top:bottom, left:right]
    within[:] = mix(within, take_out(part, (right - left, bottom - top)), share)
    return whole


def fill_masked(body: Img2ImgBody, image: PreparedImage) -> PreparedImage:
    """The model's inputs with the masked part filled from around it, if the request says so."""
    if image.mask is None or body.inpainting_fill != FILL_FROM_AROUND:
        return image
    return replace(image, pixels=fill(image.pixels, image.mask))


def open_mask(data: bytes, blur: float, limits: Limits) -> MaskFile:
    """The mask in a file, decoded: by what is opaque if any pixel is transparent, else by what is white.

    Raises ImageError that names the mask.
    """
    image = decode_mask_file(data, limits)
    is_opaque = image.alpha is None or image.alpha.min() == 255
    return MaskFile(data, "white" if is_opaque else "opaque", blur, image)


def _on_white(source: SourceImage) -> SourceImage:
    if source.alpha is None:
        return source
    white = np.broadcast_to(np.uint8(255), source.pixels.shape)
    return replace(source, pixels=mix(white, source.pixels, source.alpha), alpha=None)


def place(plane: Plane, size: Size, mode: int) -> Plane:
    """Stretch, crop, or pad with edge pixels to `size`, by resize_mode."""
    (width, height), (wide, high) = size, _scaled(_size(plane), size, mode)
    if wide * high > max(width * height, MAX_PIXELS_BETWEEN):
        return crop_to(plane, size)  # crops first
    left, top = width // 2 - wide // 2, height // 2 - high // 2
    scaled = _resize(plane, (wide, high))
    cut = scaled[max(-top, 0) :, max(-left, 0) :][:height, :width]
    around = [
        (max(start, 0), whole - max(start, 0) - part)
        for start, whole, part in zip((top, left), (height, width), cut.shape, strict=False)
    ]
    return np.pad(cut, [*around, (0, 0)][: plane.ndim], mode="edge")


def take_out(pixels: Pixels, size: Size) -> Pixels:
    """The inverse of `place` with FILL: the content in its own `size`."""
    (width, height), (wide, high) = _size(pixels), _scaled(size, _size(pixels), FILL)
    left, top = width // 2 - wide // 2, height // 2 - high // 2
    return _resize(pixels[top : top + high, left : left + wide], size)


def _size(plane: Plane) -> Size:
    return plane.shape[1], plane.shape[0]


def _scaled(content: Size, size: Size, mode: int) -> Size:
    """The content's size after it is stretched to, scaled to cover, or scaled to fit `size`."""
    if mode == STRETCH:
        return size
    (wide, high), (width, height) = content, size
    is_wider = wide * height > high * width
    if is_wider == (mode == CROP):
        return max(1, wide * height // high), height
    return width, max(1, high * width // wide)


def _resize(plane: Plane, size: Size) -> Plane:
    return plane if _size(plane) == size else resize(plane, size)


def part_around(mask: Mask, padding: int, size: Size) -> Box:
    """The smallest box around the mask with `padding` pixels, extended to the aspect ratio of `size`."""
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
    """Extend start to end to `length`, within 0 to `limit`."""
    length = min(length, limit)
    start = min(max(start - (length - (end - start)) // 2, 0), limit - length)
    return start, start + length


def fill(pixels: Pixels, mask: Mask) -> Pixels:
    """Fill the masked part from around it: increasingly fine blurs of the rest, composited."""
    rest = Image.fromarray(np.dstack([pixels, 255 - mask])).convert("RGBa")  # premultiplied alpha
    filled = Image.new("RGBA", rest.size)
    for radius, times in BLURS:
        blurred = rest.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            filled.alpha_composite(blurred)
    return np.array(filled.convert("RGB"))
