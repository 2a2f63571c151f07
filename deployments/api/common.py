"""What the routes of every contract need."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, UploadFile

from deployments.config import Limits
from deployments.images import ImageTooLarge
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def _service(request: Request) -> Img2ImgService:
    service: Img2ImgService = request.app.state.service
    return service


Service = Annotated[Img2ImgService, Depends(_service)]


async def read_upload(upload: UploadFile, limits: Limits, field: str = "image") -> bytes:
    """The file's bytes. Raises ImageTooLarge before any is read."""
    most = limits.max_upload_bytes
    if (upload.size or 0) > most:
        raise ImageTooLarge(f"{field}: {upload.size} bytes are more than the {most} that are accepted", field)
    return await upload.read()


def result_headers(first: Img2ImgResult) -> dict[str, str]:
    """What a reply says of its (first) image beside the picture."""
    headers = {
        "x-model": first.settings.model,
        "x-seed": str(first.settings.seed),
        "x-steps": str(first.num_denoise_steps),
    }
    return headers | ({"x-prompt-truncated": "true"} if first.truncated else {})
