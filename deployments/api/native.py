"""This server's own contract: `POST /v1/img2img`, `GET /v1/models` and `GET /healthz`."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field, field_validator

from deployments.api.bodies import described, form_of
from deployments.api.dependencies import MEDIA_TYPES, Service, model_headers, read_upload, result_headers
from deployments.api.sse import Event, follow, preview_png, respond
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Progress, Timings
from deployments.images.masks import MASK_BLUR, MASK_MODE_DESCRIPTION, MAX_MASK_BLUR, MaskFile, MaskMode
from deployments.schemas import ImageReply, Img2ImgOptions, Img2ImgReply, Img2ImgResult
from deployments.service import Img2ImgService, PreparedRequest

routes = APIRouter()


class Img2ImgForm(Img2ImgOptions):
    """The fields of `POST /v1/img2img`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, AVIF, GIF (first frame), BMP or TIFF.")]
    mask: Annotated[UploadFile | None, File(description="An image that marks where the source may change.")] = None
    mask_mode: MaskMode = Field("auto", description=MASK_MODE_DESCRIPTION)
    mask_blur: float = Field(MASK_BLUR, ge=0, le=MAX_MASK_BLUR, description="Feather of the mask's border in pixels.")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _restore_line_breaks(cls, text: str | None) -> str | None:
        """Browsers send every line break of a form as CR LF."""
        return text and text.replace("\r\n", "\n")


@routes.post(
    "/v1/img2img",
    response_model=Img2ImgReply,
    responses={200: {"content": {"image/*": {}}}},
    openapi_extra=described(Img2ImgForm),
)
async def post_img2img(
    request: Request, form: Annotated[Img2ImgForm, Depends(form_of(Img2ImgForm))], service: Service
) -> Response:
    """Transform one image. The reply is the image; JSON if the request accepts `application/json`; events `progress`
    (place in the queue, steps, a preview as base64 PNG) and `completed` if it accepts `text/event-stream`.
    """
    accepted = request.headers.get("accept", "")
    wants_json, wants_events = "application/json" in accepted, "text/event-stream" in accepted
    if form.num_images > 1 and not (wants_json or wants_events):
        raise InvalidRequest("num_images above 1 needs the header Accept: application/json", "num_images")
    prepared = await _prepare(service, form)
    request_id = request.headers.get("x-request-id", "")
    if wants_events:
        return await respond(_events(service, prepared, request_id), model_headers(prepared))
    results = await service.images(prepared)
    headers = result_headers(prepared, results[0])
    if wants_json:
        return JSONResponse(await _reply(service, request_id, prepared, results), headers=headers)
    encoded = await service.encode(prepared, results[0])
    return Response(encoded, media_type=MEDIA_TYPES[form.output_format], headers=headers)


@routes.get("/v1/models")
async def get_models(service: Service) -> dict[str, Any]:
    """The models in OpenAI's list format, with each model's limits, state and, if it is not ready, the reason."""
    return {"object": "list", "data": await service.model_cards()}


@routes.get("/healthz")
async def get_healthz() -> dict[str, str]:
    """Whether the HTTP API is up; `GET /v1/models` has the state of each model."""
    return {"status": "ok"}


async def _prepare(service: Img2ImgService, form: Img2ImgForm) -> PreparedRequest:
    """In a function of its own, so that a request that waits does not hold its files."""
    mask = None
    if form.mask is not None:
        mask = MaskFile(await read_upload(form.mask, service.config.limits, "mask"), form.mask_mode, form.mask_blur)
    return await service.prepare(form, await read_upload(form.image, service.config.limits), mask=mask)


async def _events(service: Img2ImgService, prepared: PreparedRequest, request_id: str) -> AsyncGenerator[Event, None]:
    async with aclosing(follow(service, prepared)) as events:
        async for event in events:
            if isinstance(event, list):
                yield "completed", await _reply(service, request_id, prepared, event)
            else:
                yield "progress", _progress(*event)


def _progress(number: int, progress: Progress) -> dict[str, Any]:
    return {
        "image": number,
        "place": progress.place,
        "step": progress.step,
        "num_steps": progress.num_steps,
        "preview": None if progress.preview is None else preview_png(progress.preview),
    }


async def _reply(
    service: Img2ImgService, request_id: str, prepared: PreparedRequest, results: list[Img2ImgResult]
) -> dict[str, Any]:
    width, height = prepared.image.size
    first = results[0]
    encoded = await asyncio.gather(*(service.encode(prepared, result) for result in results))
    reply = Img2ImgReply(
        id=request_id,
        model=first.settings.model,
        fallback_for=prepared.fallback_for,
        created=int(time.time()),
        timings={name: max(getattr(result.timings, name) for result in results) for name in Timings.__slots__},
        truncated=first.truncated,
        images=[
            ImageReply(
                b64=base64.b64encode(data).decode(),
                seed=result.settings.seed,
                width=width,
                height=height,
                format=prepared.output_format,
            )
            for result, data in zip(results, encoded, strict=True)
        ],
        parameters=first.settings.model_dump(),
    )
    return reply.model_dump()
