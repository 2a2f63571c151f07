"""The two halves of an image's flow around the model, shared by the service and the folder job.

prepare    mask -> reshape -> fit to the model
finish     restore the size -> paste the unmasked part back -> encode
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deployments.config import Limits
from deployments.engine.request import Mask, Pixels
from deployments.images.codec import Format, SourceImage, decode_image, encode_image, open_image
from deployments.images.exif import Exif, read_exif
from deployments.images.geometry import fit_pixels, restore_size
from deployments.images.masks import MaskSource, feather, fit_mask, mask_of, paint_over
from deployments.images.metadata import format_parameters
from deployments.images.strips import mix
from deployments.schemas import Settings

Restore = Callable[[Pixels], Pixels]


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """A source and its mask, of one size, before they are fitted to the model.

    `restore` turns the model's pixels into the result's. None restores the size of `source` and, with a mask, pastes
    the unmasked part of `source` back.
    """

    source: SourceImage
    mask: Mask | None
    restore: Restore | None = None


Reshape = Callable[[SourceImage, Mask | None], Reshaped]


def no_reshape(source: SourceImage, mask: Mask | None) -> Reshaped:
    """The Reshape that changes nothing."""
    return Reshaped(source, mask)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """The model's inputs, and what `finish` needs of the source.

    `pixels` (height, width, 3) and `mask` (height, width) go to the model. `size` (width, height), `alpha` (opaque
    where it is painted), `icc_profile` and `exif` are the result's; HTTP keeps no EXIF. The source's full-size pixels
    are held by `restore`, and only with a mask.
    """

    pixels: Pixels
    mask: Mask | None
    size: tuple[int, int]
    alpha: Mask | None
    icc_profile: bytes | None
    restore: Restore
    exif: Exif | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FinishedImage:
    """A result in the source's size: its pixels, and the same as a file."""

    pixels: Pixels
    data: bytes


def decode(data: bytes, limits: Limits) -> SourceImage:
    """Decode an image within the limits. Raises ImageTooLarge or NotAnImage."""
    return decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)


def exif_of(data: bytes) -> Exif | None:
    """What an image file's EXIF says of the photograph, if it has any. Raises ImageTooLarge or NotAnImage."""
    image = open_image(data)
    block = data if image.format == "TIFF" else image.info.get("exif")
    return read_exif(block) if block else None


def prepare(
    source: SourceImage,
    limits: Limits,
    max_side: int,
    mask: MaskSource | None = None,
    reshape: Reshape = no_reshape,
) -> PreparedImage:
    """Fit a source and its mask to a longest side of `max_side`. Raises ImageError or InvalidRequest."""
    area, blur = (None, 0.0) if mask is None else (mask_of(mask, source, limits), mask.blur)
    reshaped = reshape(source, area)
    source, area = reshaped.source, reshaped.mask
    pixels = fit_pixels(source.pixels, max_side=max_side, min_side=limits.min_side)
    fitted_mask = None if area is None else fit_mask(area, pixels)
    restore, alpha = reshaped.restore, source.alpha
    if restore is None:
        restore, alpha = _default_restore(source, area, blur)
    return PreparedImage(pixels, fitted_mask, source.size, alpha, source.icc_profile, restore)


def _default_restore(source: SourceImage, mask: Mask | None, blur: float) -> tuple[Restore, Mask | None]:
    """The Restore, and the result's alpha."""
    if mask is None:
        return partial(restore_size, size=source.size), source.alpha  # holds no pixels of the source
    share, alpha = feather(mask, blur, source.alpha), source.alpha
    if alpha is not None:
        share, alpha = paint_over(alpha, share)
    return partial(_restore_masked, source.pixels, share), alpha


def _restore_masked(source: Pixels, share: Mask, pixels: Pixels) -> Pixels:
    height, width = source.shape[:2]
    return mix(source, restore_size(pixels, (width, height)), share)


def finish(
    prepared: PreparedImage, pixels: Pixels, settings: Settings, format: Format, quality: int | None = None
) -> FinishedImage:
    """Encode the model's pixels, of any size, as a file with the settings inside. Raises UnusableImage.

    `quality`, 0 to 100, applies to JPEG and WebP.
    """
    height, width = prepared.pixels.shape[:2]
    restored = prepared.restore(pixels)
    data = encode_image(
        restored,
        format,
        parameters=format_parameters(settings, (width, height)),
        alpha=prepared.alpha,
        icc_profile=prepared.icc_profile,
        quality=quality,
        exif=prepared.exif,
    )
    return FinishedImage(restored, data)
