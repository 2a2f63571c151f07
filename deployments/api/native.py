"""Our own contract: `POST /v1/img2img`, and what is served and whether it is up."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import ConfigDict

from deployments.api.common import MEDIA_TYPES, Service, read_upload, result_headers
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Timings
from deployments.schemas import ImageReply, Img2ImgOptions, Img2ImgReply, Img2ImgResult
from deployments.service import Prepared

routes = APIRouter()


class Img2ImgForm(Img2ImgOptions):
    """The fields of `POST /v1/img2img`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, GIF (first frame), BMP or TIFF.")]


@routes.post("/v1/img2img", response_model=Img2ImgReply, responses={200: {"content": {"image/*": {}}}})
async def post_img2img(request: Request, form: Annotated[Img2ImgForm, Form()], service: Service) -> Response:
    """Restyle one picture. Answers with the image, or with JSON if the request accepts `application/json`."""
    wants_json = "application/json" in request.headers.get("accept", "")
    if form.num_images > 1 and not wants_json:
        raise InvalidRequest("num_images above 1 needs the header Accept: application/json", "num_images")
    prepared = await service.prepare(form, await read_upload(form.image, service.config.limits))
    results = await service.images(prepared)
    encoded = await asyncio.gather(*(service.encode(prepared, result) for result in results))
    headers = result_headers(results[0])
    if not wants_json:
        return Response(encoded[0], media_type=MEDIA_TYPES[form.output_format], headers=headers)
    reply = _reply(request.headers.get("x-request-id", ""), prepared, results, encoded)
    return JSONResponse(reply.model_dump(), headers=headers)


@routes.get("/v1/models")
async def get_models(service: Service) -> dict[str, Any]:
    """The models, in OpenAI's shape, with what each can do and whether it is ready, and if not, why."""
    return {"object": "list", "data": await service.model_cards()}


@routes.get("/healthz")
async def get_healthz() -> dict[str, str]:
    """Whether the door is open; `GET /v1/models` says which models are."""
    return {"status": "ok"}


def _reply(request_id: str, prepared: Prepared, results: list[Img2ImgResult], encoded: list[bytes]) -> Img2ImgReply:
    width, height = prepared.source.size
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
                format=prepared.output_format,
            )
            for result, data in zip(results, encoded, strict=True)
        ],
        parameters=first.settings.model_dump(),
    )
