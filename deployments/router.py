"""The HTTP door and the handle that folder jobs call: routes and the way of a request, no state of its own."""

import asyncio
import base64
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import ConfigDict
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import routing
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels, Priority, Timings
from deployments.http_errors import ModelNotReady, install_error_handlers, past_serves_handlers
from deployments.images import ImageTooLarge, SourceImage, decode_image, encode_image, fit_pixels, restore_size
from deployments.parameters import format_parameters
from deployments.readiness import Readiness
from deployments.schemas import (
    ErrorReply,
    ImageReply,
    Img2ImgOptions,
    Img2ImgReply,
    Img2ImgResult,
    OutputFormat,
    Settings,
)

ROUTER = "router"
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

api = FastAPI(
    title="img2img-serve",
    description="Stable Diffusion image-to-image. Requests of all kinds share one running UNet batch.",
    responses={code: {"model": ErrorReply} for code in (400, 404, 413, 415, 429, 503, 504)},
)
install_error_handlers(api)


class Img2ImgForm(Img2ImgOptions):
    """The fields of `POST /v1/img2img`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, GIF (first frame), BMP or TIFF.")]


# serve.ingress freezes the routes below as it decorates the class, so what they call has to be defined before it.
async def _all_or_none(coroutines: Sequence[Coroutine[Any, Any, Img2ImgResult]]) -> list[Img2ImgResult]:
    """All results; the first failure cancels the rest, so that no image is made for a reply that will not come."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _encode(source: SourceImage, result: Img2ImgResult, output_format: OutputFormat) -> bytes:
    height, width = result.pixels.shape[:2]
    return encode_image(
        restore_size(result.pixels, source.size),
        output_format,
        parameters=format_parameters(result.settings, (width, height)),
        alpha=source.alpha,
        icc_profile=source.icc_profile,
    )


def _reply(
    request_id: str, form: Img2ImgForm, source: SourceImage, results: list[Img2ImgResult], encoded: list[bytes]
) -> Img2ImgReply:
    width, height = source.size
    first = results[0]
    return Img2ImgReply(
        id=request_id,
        model=first.settings.model,
        created=int(time.time()),
        timings={name: max(getattr(result.timings, name) for result in results) for name in Timings.__slots__},
        truncated=first.truncated,
        images=[
            ImageReply(
                b64=base64.b64encode(data).decode(),
                seed=result.settings.seed,
                width=width,
                height=height,
                format=form.output_format,
            )
            for result, data in zip(results, encoded, strict=True)
        ],
        parameters=first.settings.model_dump(),
    )


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=128,
    max_queued_requests=128,
    graceful_shutdown_timeout_s=600,
    ray_actor_options={"num_cpus": 0.1},
    backpressure_config={"status_code": 429, "retry_after_s": 2},
)
@serve.ingress(api)
class Router:
    """Decodes, validates, picks the model, passes on, encodes. Any number of replicas; they share nothing."""

    def __init__(self, config: AppConfig, models: dict[str, DeploymentHandle]) -> None:
        self._config = config
        self._models = models
        self._readiness = Readiness(serve.get_replica_context().app_name, models)

    @api.post("/v1/img2img", response_model=Img2ImgReply, responses={200: {"content": {"image/*": {}}}})
    async def post_img2img(self, request: Request, form: Annotated[Img2ImgForm, Form()]) -> Response:
        """Restyle one picture. Answers with the image, or with JSON if the request accepts `application/json`."""
        wants_json = "application/json" in request.headers.get("accept", "")
        if form.num_images > 1 and not wants_json:
            raise InvalidRequest("num_images above 1 needs the header Accept: application/json", "num_images")
        seed = routing.pick_seed(form)
        model_id = routing.choose_model(form.model, self._config, seed)
        model_id = routing.first_ready(model_id, self._config, await self._readiness.ready())
        settings = routing.resolve(form, self._config, model_id, seed)
        source, fitted = await self._read(form.image, settings)
        with past_serves_handlers(model_id):
            images = [settings.model_copy(update={"seed": seed + i}) for i in range(form.num_images)]
            async with asyncio.timeout(self._config.limits.deadline_s):
                results = await _all_or_none([self.img2img(fitted, image, "interactive") for image in images])
        encoded = await asyncio.gather(
            *(asyncio.to_thread(_encode, source, result, form.output_format) for result in results)
        )
        headers = {"x-model": model_id, "x-seed": str(seed), "x-steps": str(results[0].num_denoise_steps)}
        if results[0].truncated:
            headers["x-prompt-truncated"] = "true"
        if not wants_json:
            return Response(encoded[0], media_type=MEDIA_TYPES[form.output_format], headers=headers)
        reply = _reply(request.headers.get("x-request-id", ""), form, source, results, encoded)
        return JSONResponse(reply.model_dump(), headers=headers)

    @api.get("/v1/models")
    async def get_models(self) -> dict[str, Any]:
        """The models, in OpenAI's shape, with what each can do and whether it is ready, and if not, why."""
        described = await self._readiness.describe()
        return {
            "object": "list",
            "data": [self._model_card(model_id, described[model_id]) for model_id in self._models],
        }

    @api.get("/healthz")
    async def get_healthz(self) -> dict[str, str]:
        """Whether the door is open; `GET /v1/models` says which models are."""
        return {"status": "ok"}

    async def img2img(
        self, pixels: Pixels, settings: Settings, priority: Priority = "folder", request_id: str | None = None
    ) -> Img2ImgResult:
        """The image for fitted pixels and resolved settings, in the size that was sent.

        For other parts of the application, by handle. Raises ModelNotReady, EngineError, Serve's BackPressureError.
        """
        if settings.model not in await self._readiness.ready():
            raise ModelNotReady(settings.model, await self._readiness.reason(settings.model))
        asked = settings.model_dump(exclude={"model", "max_side"})
        engine_id = f"{request_id or 'http'}-{uuid.uuid4().hex}"
        request = Img2ImgRequest(engine_id, pixels, priority=priority, **asked)
        response = self._models[settings.model].img2img.remote(request)
        try:
            output: Img2ImgOutput = await response
        except asyncio.CancelledError:
            response.cancel()  # Serve passes on a caller's disconnect by itself, but not a deadline
            raise
        return Img2ImgResult(settings, output.pixels, output.num_denoise_steps, output.truncated, output.timings)

    def config(self) -> AppConfig:
        """The configuration, for folder jobs that join the running application."""
        return self._config

    async def _read(self, upload: UploadFile, settings: Settings) -> tuple[SourceImage, Pixels]:
        most = self._config.limits.max_upload_bytes
        if (upload.size or 0) > most:
            raise ImageTooLarge(f"image: {upload.size} bytes are more than the {most} that are accepted")
        return await asyncio.to_thread(self._decode, await upload.read(), settings)

    def _decode(self, data: bytes, settings: Settings) -> tuple[SourceImage, Pixels]:
        limits = self._config.limits
        source = decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)
        return source, fit_pixels(source.pixels, max_side=settings.max_side, min_side=limits.min_side)

    def _model_card(self, model_id: str, described: dict[str, Any]) -> dict[str, Any]:
        model, limits = self._config.models[model_id], self._config.limits
        return {
            "id": model_id,
            "object": "model",
            "created": 0,
            "owned_by": "img2img-serve",
            "aliases": list(model.aliases),
            "checkpoint": model.checkpoint,
            "defaults": self._config.defaults_for(model_id).model_dump(),
            "limits": limits.model_dump(exclude={"deadline_s"}),
            **described,
        }
