"""OpenAI's contract: `POST /v1/images/edits` for its SDKs and compatible clients, and `GET /v1/models/{model}`."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response, UploadFile
from fastapi.responses import JSONResponse

from deployments import routing
from deployments.api.bodies import described, form_of
from deployments.api.dependencies import Service, in_size, model_headers, read_upload, result_headers
from deployments.api.json_body import JsonRoute
from deployments.api.openai import json_body
from deployments.api.openai.fields import EditedImage, ImageEditForm, ImageMetadata, ImagesReply, Usage
from deployments.api.sse import Event, follow, respond
from deployments.config import MAX_NAME_CHARS, AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Progress
from deployments.images.masks import ErasedPart, MaskFile, MaskSource
from deployments.service import Img2ImgService, PreparedRequest

routes = APIRouter(route_class=JsonRoute)
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@routes.post(
    "/v1/images/edits",
    response_model=ImagesReply,
    responses={200: {"content": {"text/event-stream": {}}}},
    openapi_extra=described(ImageEditForm, json_body.SCHEMA),
)
async def post_edits(
    form: Annotated[ImageEditForm, Depends(form_of(ImageEditForm, json_body.fields_of))], service: Service
) -> Response:
    """Edit one image. With `stream`: events `image_edit.partial_image`, and `image_edit.completed` for each image."""
    prepared = await _prepare(service, form)
    if form.stream:
        return await respond(_events(service, prepared, form), model_headers(prepared), error_name=None)
    results = await service.images(prepared)
    images = await asyncio.gather(*(service.encode(prepared, result, form.output_compression) for result in results))
    data = [
        EditedImage(b64_json=base64.b64encode(image).decode(), seed=result.settings.seed)
        for image, result in zip(images, results, strict=True)
    ]
    reply = ImagesReply(**_metadata(prepared, form), created=int(time.time()), data=data)
    return JSONResponse(reply.model_dump(), headers=result_headers(prepared, results[0]))


@routes.get("/v1/models/{model:path}")
async def get_model(
    model: Annotated[str, Path(max_length=MAX_NAME_CHARS, description="Model id or alias.")], service: Service
) -> dict[str, Any]:
    """The model of this id or alias, as in `GET /v1/models`."""
    model_id = routing.model_id_of(model, service.config)
    return next(card for card in await service.model_cards() if card["id"] == model_id)


async def _prepare(service: Img2ImgService, form: ImageEditForm) -> PreparedRequest:
    config = service.config
    if form.num_images > config.limits.max_images:
        raise InvalidRequest(f"n must be at most {config.limits.max_images}, not {form.num_images}", "n")
    if form.output_format == "png" and form.output_compression not in (None, 100):
        raise InvalidRequest("output_compression must be 100 or omitted with output_format png", "output_compression")
    seed = routing.pick_seed(form)
    steps = form.num_inference_steps or _steps(form, config, seed)
    options = form.model_copy(update={"seed": seed, "num_inference_steps": steps})
    options, reshape = in_size(options, _size(form.size), config.limits, "size")
    mask: MaskSource = ErasedPart(form.mask_blur)
    if form.mask is not None:
        mask = MaskFile(await read_upload(form.mask, config.limits, "mask"), form.mask_mode, form.mask_blur)
    image = await read_upload(_single_upload(form), config.limits)
    prepared = await service.prepare(options, image, mask=mask, reshape=reshape)
    return replace(prepared, image=replace(prepared.image, alpha=None)) if _is_opaque(form) else prepared


def _single_upload(form: ImageEditForm) -> UploadFile:
    images = form.image + form.image_list
    if len(images) != 1:
        raise InvalidRequest(f"image: exactly one image is required, not {len(images)}", "image")
    return images[0]


def _size(text: str) -> tuple[int, int] | None:
    if text == "auto":
        return None
    if (size := SIZE.fullmatch(text)) is None:
        raise InvalidRequest(f"size must be WIDTHxHEIGHT in pixels, or auto, not {text!r}", "size")
    return int(size[1]), int(size[2])


def _steps(form: ImageEditForm, config: AppConfig, seed: int) -> int | None:
    """The number of steps for the quality, None for the model's default. At least one of them runs."""
    if form.quality not in ("low", "high"):
        return None
    defaults = config.defaults_for(routing.choose_model(form.model, config, seed))
    usual = defaults.num_inference_steps
    if form.quality == "high":
        return min(2 * usual, config.limits.max_steps)
    strength = defaults.strength if form.strength is None else form.strength
    return next((steps for steps in range(max(usual // 2, 1), usual) if int(steps * strength) >= 1), usual)


def _is_opaque(form: ImageEditForm) -> bool:
    return form.background == "opaque" or form.output_format == "jpeg"


def _metadata(prepared: PreparedRequest, form: ImageEditForm) -> dict[str, Any]:
    width, height = prepared.image.size
    metadata = ImageMetadata(
        model=prepared.settings.model,
        fallback_for=prepared.fallback_for,
        output_format=form.output_format,
        size=f"{width}x{height}",
        background="opaque" if prepared.image.alpha is None else "transparent",
        quality="medium" if form.quality in ("auto", "standard") else form.quality,
    )
    return metadata.model_dump()


async def _events(
    service: Img2ImgService, prepared: PreparedRequest, form: ImageEditForm
) -> AsyncGenerator[Event, None]:
    quality, sent = form.output_compression, Counter[int]()
    async with aclosing(follow(service, prepared)) as events:
        async for event in events:
            if isinstance(event, list):
                for number, result in enumerate(event):
                    image = await service.encode(prepared, result, quality)
                    yield _event("completed", prepared, form, number, image, usage=Usage().model_dump())
                continue
            number, progress = event
            if progress.preview is not None and sent[number] < partial_images_due(progress, form.partial_images):
                image = await service.encode_preview(prepared, number, progress.preview, quality)
                yield _event("partial_image", prepared, form, number, image, partial_image_index=sent[number])
                sent[number] += 1


def partial_images_due(progress: Progress, partial_images: int) -> int:
    """The number of partial images due by now, when they are spread evenly over the steps."""
    return min(progress.step * (partial_images + 1) // progress.num_steps, partial_images)


def _event(kind: str, prepared: PreparedRequest, form: ImageEditForm, number: int, image: bytes, **more: Any) -> Event:
    name = f"image_edit.{kind}"
    data = {
        "type": name,
        "b64_json": base64.b64encode(image).decode(),
        "created_at": int(time.time()),
        "image_index": number,
        "seed": prepared.settings.seed + number,
    }
    return name, data | _metadata(prepared, form) | more
