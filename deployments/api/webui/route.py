"""Errors under /sdapi as web UI clients expect them: the web UI's field names, and `detail` beside our error body."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse

from deployments.api.json_body import JsonRoute
from deployments.engine.errors import InvalidRequest
from deployments.errors import cause_of

WEBUI_FIELDS = {  # the web UI's field for each of ours
    "num_images": "batch_size",
    "num_inference_steps": "steps",
    "strength": "denoising_strength",
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "loras": "prompt",
    "max_side": "width",
}


class WebuiRoute(JsonRoute):
    """A route whose errors have the web UI's field names and `detail`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_detail(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                return await _reply(request, with_webui_field_names(error))

        return handle_with_detail


def with_webui_field_names(error: Exception) -> Exception:
    """The same error with the web UI's field name."""
    cause = cause_of(error)
    if not isinstance(cause, InvalidRequest) or cause.param not in WEBUI_FIELDS:
        return error
    theirs = WEBUI_FIELDS[cause.param]
    return type(cause)(re.sub(rf"\b{cause.param}\b", theirs, cause.message, count=1), theirs)


async def _reply(request: Request, error: Exception) -> Response:
    """The reply of the application's handler for this error, with `detail` added."""
    handlers = request.app.exception_handlers
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    reply = await handler(request, error)
    body = json.loads(reply.body)
    detail = error.detail if isinstance(error, HTTPException) else body["error"]["message"]
    headers = {name: value for name, value in reply.headers.items() if not name.startswith("content-")}
    return JSONResponse({"detail": detail} | body, reply.status_code, headers=headers)
