"""What the routes of every contract share."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypeVar

from fastapi import Depends, Request, UploadFile

from deployments.config import Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask
from deployments.images.codec import ImageTooLarge, SourceImage
from deployments.images.flow import Reshape, Reshaped, no_reshape
from deployments.images.geometry import crop_to
from deployments.schemas import Img2ImgOptions, Img2ImgResult, OutputFormat
from deployments.service import Img2ImgService, PreparedRequest

Options = TypeVar("Options", bound=Img2ImgOptions)
MEDIA_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


async def _service(request: Request) -> Img2ImgService:  # async: FastAPI runs other dependencies in threads
    service: Img2ImgService = request.app.state.service
    return service


Service = Annotated[Img2ImgService, Depends(_service)]


async def read_upload(upload: UploadFile, limits: Limits, field: str = "image") -> bytes:
    """The file's bytes. Raises ImageTooLarge before reading."""
    most = limits.max_upload_bytes
    if (upload.size or 0) > most:
        raise ImageTooLarge(f"{field}: the file has {upload.size} bytes; at most {most} are allowed", field)
    return await upload.read()


def in_size(options: Options, size: tuple[int, int] | None, limits: Limits, field: str) -> tuple[Options, Reshape]:
    """Options and Reshape for a reply of `size` (width, height), which is also the model's input size.

    The source and its mask are cropped around the centre and scaled, not stretched. None keeps the source's size.
    Raises InvalidRequest.
    """
    if size is None:
        return options, no_reshape
    if not all(limits.min_side <= side <= limits.max_side for side in size):
        width, height = size
        message = f"{field}: both sides must be {limits.min_side} to {limits.max_side} pixels, not {width}x{height}"
        raise InvalidRequest(message, field)

    def reshape(source: SourceImage, mask: Mask | None) -> Reshaped:
        alpha = None if source.alpha is None else crop_to(source.alpha, size)
        cropped = replace(source, pixels=crop_to(source.pixels, size), alpha=alpha)
        return Reshaped(cropped, None if mask is None else crop_to(mask, size))

    return options.model_copy(update={"max_side": options.max_side or max(size)}), reshape


def model_headers(prepared: PreparedRequest) -> dict[str, str]:
    """The headers of a reply about its model, and about the requested one if that was replaced by a fallback."""
    replaced = {"x-fallback-for": prepared.fallback_for} if prepared.fallback_for else {}
    return {"x-model": prepared.settings.model} | replaced


def result_headers(prepared: PreparedRequest, first: Img2ImgResult) -> dict[str, str]:
    """The headers of a reply, about its first image."""
    headers = model_headers(prepared) | {
        "x-seed": str(first.settings.seed),
        "x-steps": str(first.num_denoise_steps),
    }
    return headers | ({"x-prompt-truncated": "true"} if first.truncated else {})
