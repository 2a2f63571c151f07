"""The HTTP API: one module or package for each contract, one error table for all."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from deployments.api import huggingface, native
from deployments.api.browsers import HostGate, OriginGate, allow_origins
from deployments.api.documentation import install_documentation
from deployments.api.errors import install_error_handlers
from deployments.api.key_gate import KeyGate
from deployments.api.middleware import BodyLimit, HeadAsGet
from deployments.api.openai import routes as openai
from deployments.api.playground import install_playground
from deployments.api.webui import routes as webui
from deployments.api.webui.tasks import WebuiTasks
from deployments.auth.key_store import Keys
from deployments.schemas import ErrorReply
from deployments.service import Img2ImgService
from deployments.telemetry import CallMetrics

CONTRACTS = {
    "img2img-serve": (native.routes, "This server's own API, with all of its features."),
    "OpenAI": (
        openai.routes,
        "Image edits for OpenAI's SDKs, with additional fields for the other features of this server.",
    ),
    "Hugging Face": (huggingface.routes, "The Inference API's image-to-image task, with one URL per model."),
    "AUTOMATIC1111": (webui.routes, "The web UI's API, for its clients, plugins and front ends."),
}
MAX_PARTS = 3  # an image and its mask, each a third larger in base64
FIELDS_BYTES = 1024**2


class _Api(FastAPI):
    """With CORS around everything: FastAPI's own middleware is within its handler of unexpected errors."""

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        origins = self.state.service.config.cors_origins
        return allow_origins(stack, origins) if origins else stack


def build_api(service: Img2ImgService, webui_tasks: WebuiTasks | None = None) -> FastAPI:
    """The HTTP API. Every route finds `service` as `app.state.service`.

    Without `webui_tasks` the web UI routes are only documented, not callable.
    """
    config = service.config
    max_bytes = MAX_PARTS * config.limits.max_upload_bytes + FIELDS_BYTES
    api = _Api(
        title="img2img-serve",
        docs_url=None,  # FastAPI's pages load their files from other hosts
        redoc_url=None,
        description="Stable Diffusion image-to-image. Requests of all kinds share one running UNet batch.",
        openapi_tags=[{"name": tag, "description": description} for tag, (_, description) in CONTRACTS.items()],
        responses={code: {"model": ErrorReply} for code in (400, 401, 403, 404, 413, 415, 429, 503, 504)},
    )
    api.state.service, api.state.webui_tasks = service, webui_tasks
    api.add_middleware(BodyLimit, max_bytes=max_bytes)
    if (keys := config.keys) is not None:
        api.add_middleware(KeyGate, keys=Keys(keys), public=keys.public, on_reply=CallMetrics())
    api.add_middleware(HeadAsGet)
    api.add_middleware(OriginGate, allowed=config.cors_origins)
    if config.keys is None or config.trusted_hosts:  # a page that DNS rebinding lets read still has no key
        api.add_middleware(HostGate, trusted=config.trusted_hosts)
    install_error_handlers(api)
    for tag, (routes, _) in CONTRACTS.items():
        api.include_router(routes, tags=[tag])
    install_playground(api)
    install_documentation(api, config.keys)
    return api
