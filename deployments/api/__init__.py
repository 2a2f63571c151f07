"""The HTTP API: one module for each contract that clients know, one error table for all."""

from __future__ import annotations

from fastapi import FastAPI

from deployments.api import native
from deployments.api.errors import install_error_handlers
from deployments.schemas import ErrorReply
from deployments.service import Img2ImgService


def build_api(service: Img2ImgService) -> FastAPI:
    """The application behind the door; every route finds `service` as `app.state.service`."""
    api = FastAPI(
        title="img2img-serve",
        description="Stable Diffusion image-to-image. Requests of all kinds share one running UNet batch.",
        responses={code: {"model": ErrorReply} for code in (400, 404, 413, 415, 429, 503, 504)},
    )
    api.state.service = service
    install_error_handlers(api)
    api.include_router(native.routes)
    return api
