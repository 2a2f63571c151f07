"""What goes wrong under /sdapi, told in the web UI's way: its fields' names, and `detail` beside our error body."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from ray.exceptions import RayTaskError

from deployments.engine.errors import InvalidRequest

FIELDS = {  # ours and theirs
    "num_images": "batch_size",
    "num_inference_steps": "steps",
    "strength": "denoising_strength",
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "loras": "prompt",
    "max_side": "width",
}


class WebuiRoute(APIRoute):
    """A route whose errors web UI clients understand."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_tell(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                return await _reply(request, in_webui_words(error))

        return handle_or_tell


def in_webui_words(error: Exception) -> Exception:
    """The same error with the web UI's name for the field."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, InvalidRequest) or cause.param not in FIELDS:
        return error
    theirs = FIELDS[cause.param]
    return type(cause)(re.sub(rf"\b{cause.param}\b", theirs, cause.message, count=1), theirs)


async def _reply(request: Request, error: Exception) -> Response:
    """What the application's handler for this error says, and `detail`."""
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    reply = await handler(request, error)
    body = json.loads(reply.body)
    detail = error.detail if isinstance(error, HTTPException) else body["error"]["message"]
    headers = {name: value for name, value in reply.headers.items() if not name.startswith("content-")}
    return JSONResponse({"detail": detail} | body, reply.status_code, headers=headers)
