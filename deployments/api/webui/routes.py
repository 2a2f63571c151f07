"""AUTOMATIC1111's web UI: `POST /sdapi/v1/img2img`, its progress and its interruption, and PNG info."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from deployments.api.base64_files import decode_file
from deployments.api.dependencies import Service
from deployments.api.webui import canvas, lists
from deployments.api.webui.info import info_of
from deployments.api.webui.mapping import current_model, find_model, to_options
from deployments.api.webui.progress import overall_progress, task_progress
from deployments.api.webui.route import WebuiRoute
from deployments.api.webui.schemas import Img2ImgBody, Img2ImgReply, PngInfoBody, ProgressBody
from deployments.api.webui.tasks import Tasks, WebuiTasks
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.images.codec import NotAnImage, image_errors_name
from deployments.images.masks import MaskFile
from deployments.images.metadata import parse_parameters, read_parameters
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService, PreparedRequest

routes = APIRouter(route_class=WebuiRoute)


@routes.post("/sdapi/v1/img2img", response_model=Img2ImgReply)
async def post_img2img(body: Img2ImgBody, service: Service, tasks: Tasks) -> Img2ImgReply:
    """Transform one image. An interrupted request replies with the images finished by then."""
    prepared = await _prepare(body, service, tasks)
    results = await tasks.images(service, prepared, body.force_task_id)
    return Img2ImgReply(
        images=await asyncio.gather(*(_encoded(service, prepared, result) for result in results)),
        parameters=_echo(body),
        info=info_of(body, prepared, results, service.config.models[prepared.settings.model]),
    )


@routes.get("/sdapi/v1/progress")
async def get_progress(
    tasks: Tasks, skip_current_image: Annotated[bool, Query(description="Omits the preview.")] = False
) -> dict[str, Any]:
    """The progress of all img2img requests under /sdapi together, with keys those of this key."""
    return overall_progress(await tasks.running(), with_image=not skip_current_image)


@routes.post("/sdapi/v1/interrupt")
async def post_interrupt(tasks: Tasks) -> dict[str, Any]:
    """Stop every running img2img request under /sdapi, with keys those of this key."""
    await tasks.stop("interrupted")
    return {}


@routes.post("/sdapi/v1/skip")
async def post_skip(tasks: Tasks) -> None:
    """Same as interrupt: the images of a request run together, so none is left after the skipped one."""
    await tasks.stop("skipped")


@routes.post("/internal/progress")
async def post_internal_progress(body: ProgressBody, tasks: Tasks) -> dict[str, Any]:
    """The progress of the request whose force_task_id is `id_task`."""
    completed = await tasks.is_finished(body.id_task)
    seen = body.id_live_preview if body.live_preview else None
    return task_progress(body.id_task, await tasks.running(), completed=completed, seen_preview=seen)


@routes.get("/internal/pending-tasks")
async def get_pending_tasks(tasks: Tasks) -> dict[str, Any]:
    """The tasks before their first step."""
    waiting = [task.report.task for task in await tasks.running() if task.report.place > 0]
    return {"size": len(waiting), "tasks": waiting}


@routes.post("/sdapi/v1/png-info")
async def post_png_info(body: PngInfoBody) -> dict[str, Any]:
    """The settings inside an image, as text and by name."""
    text = await asyncio.to_thread(read_parameters, _decode_base64(body.image, "image")) or ""
    return {"info": text, "items": {}, "parameters": parse_parameters(text) if text else {}}


routes.include_router(lists.routes)


async def _prepare(body: Img2ImgBody, service: Img2ImgService, tasks: WebuiTasks) -> PreparedRequest:
    """In a function of its own, so that a request that waits does not hold the decoded mask."""
    image, mask = _init_image(body), await _mask(body, service)
    options = to_options(body, await _model(body, service.config, tasks), service.config.limits)
    with image_errors_name("init_images"):
        prepared = await service.prepare(options, image, mask=mask, reshape=partial(canvas.reshape, body, mask))
    filled = await asyncio.to_thread(canvas.fill_masked, body, prepared.image)
    return replace(_without_empty_negative(prepared), image=filled)


def _init_image(body: Img2ImgBody) -> bytes:
    if not body.init_images:
        raise HTTPException(404, "Init image not found")
    if len(body.init_images) > 1:
        raise InvalidRequest(f"init_images must hold exactly one image, not {len(body.init_images)}", "init_images")
    return _decode_base64(body.init_images[0], "init_images")


async def _mask(body: Img2ImgBody, service: Img2ImgService) -> MaskFile | None:
    if not body.mask:
        return None
    blur_x, blur_y = (body.mask_blur_x, body.mask_blur_y) if body.mask_blur is None else (body.mask_blur,) * 2
    if blur_x != blur_y:
        raise InvalidRequest(f"mask_blur_y must equal mask_blur_x, {blur_x}, not {blur_y}", "mask_blur_y")
    data = _decode_base64(body.mask, "mask")
    return await asyncio.to_thread(canvas.open_mask, data, blur_x, service.config.limits)


def _decode_base64(text: str, param: str) -> bytes:
    """The bytes of base64 text. Raises NotAnImage, and InvalidRequest for a URL."""
    try:
        return decode_file(text, param)
    except ValueError as error:
        raise NotAnImage(f"{param}: the text is not base64: {error}", param) from error


async def _model(body: Img2ImgBody, config: AppConfig, tasks: WebuiTasks) -> str | None:
    if name := body.override_settings.sd_model_checkpoint:
        return find_model(name, config, "override_settings.sd_model_checkpoint")
    return current_model(await tasks.picked(), config)


def _without_empty_negative(prepared: PreparedRequest) -> PreparedRequest:
    """None for an empty negative prompt: the web UI embeds that as SDXL's zeros."""
    settings = prepared.settings
    return replace(prepared, settings=settings.model_copy(update={"negative_prompt": settings.negative_prompt or None}))


async def _encoded(service: Img2ImgService, prepared: PreparedRequest, result: Img2ImgResult) -> str:
    return base64.b64encode(await service.encode(prepared, result)).decode()


def _echo(body: Img2ImgBody) -> dict[str, Any]:
    fields = body.model_dump() | {"override_settings": body.override_settings.model_dump(exclude_unset=True)}
    return fields if body.include_init_images else fields | {"init_images": None, "mask": None}
