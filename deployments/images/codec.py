"""Image files to pixels and back: decoding within limits, and encoding with the settings inside the file.

ImageError
    NotAnImage       an unsupported format, or a damaged file (HTTP 415)
    ImageTooLarge    more bytes or pixels than the limits allow (HTTP 413)
    UnusableImage    a valid image with an unsupported shape (HTTP 400)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

from PIL import Image, PngImagePlugin

from deployments.engine.request import Mask, Pixels
from deployments.images.colours import read_colours
from deployments.images.exif import Exif, exif_block
from deployments.images.jpeg import check_scans, with_end
from deployments.images.png import SIGNATURE, clean_png
from deployments.images.tiff import check_parts

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"]

FORMATS: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
ALPHA_FORMATS: tuple[Format, ...] = ("png", "webp", "tiff", "avif")
SAVE_OPTIONS: dict[Format, dict[str, Any]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 92},
    "webp": {"quality": 90},
    "tiff": {},  # uncompressed: Pillow writes compressed TIFFs with libtiff, which accepts no EXIF block
    "gif": {},
    "bmp": {},
    "avif": {"quality": 80},
}
MAX_SIDE: dict[Format, int] = {"jpeg": 65500, "webp": 16383, "gif": 65535, "avif": 32768}
# Pillow refuses larger images as decompression bombs, and warns above half of this.
PILLOW_MAX_PIXELS = 178_956_970
MAX_JPEG_EXIF_BYTES = 65533
USER_COMMENT_UNICODE = b"UNICODE\0"
QUICK_PIXELS, QUICK_BYTES = 512 * 512, 512 * 1024


class ImageError(Exception):
    """Base of this module's errors. `param` is the request field that holds the image."""

    def __init__(self, message: str, param: str = "image") -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class NotAnImage(ImageError):
    """The file has an unsupported format, or is damaged."""


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than the limits allow."""


class UnusableImage(ImageError):
    """The image is valid, but its shape is unsupported."""


@contextmanager
def image_errors_name(param: str) -> Iterator[None]:
    """Raise the block's ImageErrors about the field `image` as errors about the request field `param`."""
    try:
        yield
    except ImageError as error:
        if error.param != "image":
            raise
        raise type(error)(f"{param}: {error.message}", param) from error


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A decoded image, upright.

    `pixels` is (height, width, 3) RGB, white where fully transparent. `alpha` is (height, width) or None.
    `icc_profile` is the RGB profile of `pixels`, None for sRGB.
    """

    pixels: Pixels
    alpha: Mask | None
    icc_profile: bytes | None
    format: Format

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]


def decode_image(data: bytes, *, max_bytes: int, max_pixels: int) -> SourceImage:
    """Decode the first frame of an image of one of FORMATS as 8-bit RGB, rotated by its EXIF orientation.

    The header is checked against `max_pixels` before any pixel is decoded. Raises ImageTooLarge or NotAnImage.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {max_bytes} are allowed")
    image = open_image(data, max_pixels)
    try:
        return _read(image, data)
    except Exception as error:  # Pillow raises many types for damaged files
        raise NotAnImage(f"the {image.format} image is damaged: {error}") from error


def is_quick(format: Format, size: tuple[int, int]) -> bool:
    """Whether decoding or encoding takes only 1 to 3 ms. Under load, a change of threads costs more than that."""
    return format == "jpeg" and size[0] * size[1] <= QUICK_PIXELS


def is_quick_to_decode(data: bytes) -> bool:
    """`is_quick`, from the file's header."""
    if len(data) <= QUICK_BYTES and data.startswith(b"\xff\xd8"):
        with suppress(Exception):  # decode_image reports damaged files
            return is_quick("jpeg", Image.open(BytesIO(data), formats=["jpeg"]).size)
    return False


def open_image(data: bytes, max_pixels: int = PILLOW_MAX_PIXELS) -> Image.Image:
    """The image with only its header read. Raises ImageTooLarge or NotAnImage."""
    if not data:
        raise NotAnImage("the image is empty (0 bytes)")
    if data.startswith(SIGNATURE):
        try:
            data = clean_png(data)
        except ValueError as error:
            raise NotAnImage(f"the PNG image is damaged: {error}") from error
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has too many pixels; at most {max_pixels} are allowed") from error
    except Exception as error:  # as in decode_image
        raise NotAnImage("the file is not an image in JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image is {width}x{height}; at most {max_pixels} pixels are allowed")
    return image


def _read(image: Image.Image, data: bytes) -> SourceImage:
    # Pillow reports a JPEG with a second image inside, which many phones write, as MPO.
    source_format: Format = next((name for name in FORMATS if name.upper() == image.format), "jpeg")
    if source_format == "jpeg":
        check_scans(data)
        image = Image.open(BytesIO(with_end(data)), formats=["jpeg"])
    check_parts(image)
    image.load()
    return SourceImage(*read_colours(image), source_format)


def encode_image(
    pixels: Pixels,
    format: Format,
    *,
    parameters: str,
    alpha: Mask | None = None,
    icc_profile: bytes | None = None,
    quality: int | None = None,
    exif: Exif | None = None,
) -> bytes:
    """Encode pixels as a file that contains `parameters` where `read_parameters` and other tools read them.

    `alpha` is written to ALPHA_FORMATS. `quality`, 0 to 100, applies to JPEG, WebP and AVIF. A BMP holds no parameters;
    a JPEG holds up to 64 KB of them. `exif` is written to every format but GIF and BMP. Raises UnusableImage if a side
    is longer than the format allows.
    """
    height, width = pixels.shape[:2]
    if max(width, height) > MAX_SIDE.get(format, max(width, height)):
        raise UnusableImage(f"the image is {width}x{height}; {format} holds at most {MAX_SIDE[format]} pixels a side")
    image = Image.fromarray(pixels)
    if alpha is not None and format in ALPHA_FORMATS:
        image.putalpha(Image.fromarray(alpha))
    text = parameters.encode(errors="replace").decode()  # no format holds a lone surrogate
    options = SAVE_OPTIONS[format] | _text_options(text, format, exif)
    if icc_profile is not None:
        options["icc_profile"] = icc_profile
    if quality is not None:
        options["quality"] = quality
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _text_options(text: str, format: Format, kept: Exif | None) -> dict[str, Any]:
    if format == "bmp":
        return {}
    if format == "gif":
        return {"comment": text.encode()}
    if format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("parameters", text)
        return {"pnginfo": chunks} | ({"exif": exif_block(b"", kept)} if kept else {})
    comment = USER_COMMENT_UNICODE + text.encode("utf-16-be")
    blocks = [exif_block(comment, kept), exif_block(comment), exif_block(b"", kept)]
    return next(({"exif": block} for block in blocks if format != "jpeg" or len(block) <= MAX_JPEG_EXIF_BYTES), {})
