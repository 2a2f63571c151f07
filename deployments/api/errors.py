"""Error replies: one table from exception to status, and one error body."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from ray.exceptions import RayActorError, RayTaskError
from starlette.exceptions import HTTPException

from deployments.allowed_values import allowed_numbers
from deployments.engine.errors import InvalidRequest, RequestAborted
from deployments.errors import ModelNotReady, QueueFull, UnknownModel, cause_of
from deployments.images.codec import ImageError, ImageTooLarge, NotAnImage, UnusableImage
from deployments.schemas import ErrorDetail, ErrorReply, Img2ImgOptions, encodable

logger = logging.getLogger(__name__)
RETRY_AFTER_S = 2


class ErrorSpec(NamedTuple):
    """The status and the fields of an error reply."""

    status: int
    type: str
    code: str
    param: str | None = None


TEXT_FOR_FILE = f"Expected UploadFile, received: {str}"  # how FastAPI's message ends
AUTHENTICATION = ErrorSpec(401, "authentication_error", "invalid_api_key")
FOREIGN_HOST = ErrorSpec(403, "permission_error", "host_not_allowed")
FOREIGN_ORIGIN = ErrorSpec(403, "permission_error", "cross_site_request")
LIMITED = ErrorSpec(429, "rate_limit_error", "rate_limit_exceeded")
# The first matching entry wins; every other exception is a 500 whose details are only logged.
_ERRORS: tuple[tuple[type[Exception], ErrorSpec], ...] = (
    (UnknownModel, ErrorSpec(404, "invalid_request_error", "model_not_found")),
    (InvalidRequest, ErrorSpec(400, "invalid_request_error", "invalid_value")),
    (UnusableImage, ErrorSpec(400, "invalid_request_error", "unusable_image")),
    (ImageTooLarge, ErrorSpec(413, "invalid_request_error", "image_too_large")),
    (NotAnImage, ErrorSpec(415, "invalid_request_error", "not_an_image")),
    (QueueFull, ErrorSpec(429, "rate_limit_error", "queue_full")),
    (ModelNotReady, ErrorSpec(503, "service_unavailable_error", "model_not_ready")),
    (RequestAborted, ErrorSpec(503, "service_unavailable_error", "model_stopped")),
    (RayActorError, ErrorSpec(503, "service_unavailable_error", "replica_died")),
    (TimeoutError, ErrorSpec(504, "timeout_error", "deadline_exceeded")),
)
_MESSAGES = {
    "queue_full": "the model has as many requests as it can hold; try again later",
    "replica_died": "the replica that worked on this request died; try again",
    "deadline_exceeded": "the image was not done within the server's deadline",
}


def install_error_handlers(api: FastAPI) -> None:
    """Give every error of this app, FastAPI's own included, the one error body."""
    api.add_exception_handler(RequestValidationError, _invalid_field)
    api.add_exception_handler(HTTPException, _http_exception)
    for error, _ in _ERRORS:
        api.add_exception_handler(error, _any_error)
    api.add_exception_handler(RayTaskError, _any_error)
    api.add_exception_handler(Exception, _any_error)


def describe(error: Exception) -> ErrorReply:
    """The error body. The details of an unexpected error are only logged."""
    return _body(*_known(error))


def _known(error: Exception) -> tuple[ErrorSpec, str]:
    cause = cause_of(error)
    spec = next((spec for known, spec in _ERRORS if isinstance(cause, known)), None)
    if spec is None:
        logger.error("a request failed", exc_info=error)
        return ErrorSpec(500, "server_error", "internal_error"), "something went wrong on the server"
    if isinstance(cause, (InvalidRequest, ImageError)):
        spec = spec._replace(param=cause.param)
    return spec, _MESSAGES.get(spec.code, str(cause))


def _body(spec: ErrorSpec, message: str) -> ErrorReply:
    param = spec.param and encodable(spec.param)  # a field's name in JSON may hold lone surrogates
    return ErrorReply(error=ErrorDetail(message=encodable(message), type=spec.type, param=param, code=spec.code))


def reply(spec: ErrorSpec, message: str, retry_after_s: float | None = None) -> JSONResponse:
    """The reply with the one error body."""
    headers = {} if retry_after_s is None else {"Retry-After": str(math.ceil(retry_after_s))}
    if spec.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(_body(spec, message).model_dump(), spec.status, headers=headers)


async def _any_error(request: Request, error: Exception) -> JSONResponse:
    spec, message = _known(error)
    retry_after_s = getattr(cause_of(error), "retry_after_s", None) or RETRY_AFTER_S
    return reply(spec, message, retry_after_s if spec.status in (429, 503) else None)


async def _invalid_field(request: Request, error: Exception) -> JSONResponse:
    """pydantic's first error, with the field's name and, for a number, its whole range: pydantic names one end."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    name = param or "the body"
    if first["type"] == "json_invalid":
        param, message = None, f"the body is not JSON: {first['ctx']['error']}"
    elif first["type"] in ("model_attributes_type", "model_type") and param is None:
        message = "the body is no JSON object: send application/json"
    elif first["type"] == "extra_forbidden":
        message = f"unknown field {param!r}"
    elif first["type"] == "missing":
        message = f"{name}: this field is required"
    elif first["msg"].endswith(TEXT_FOR_FILE):
        message = f"{name} must be a file with a name, as `curl -F image=@photo.png` sends it, not text"
    elif first["type"] == "unsupported_value":
        message = f"{name}: {first['msg']}"
    else:
        numbers = allowed_numbers(name.rpartition(".")[2], _fields_of(request))
        message = f"{name}: {first['msg']}{numbers and f' ({numbers})'}, not {str(first.get('input'))[:100]!r}"
    return reply(ErrorSpec(400, "invalid_request_error", first["type"], param), message)


def _fields_of(request: Request) -> type[BaseModel]:
    """The model of the route's JSON body. Forms have fields of Img2ImgOptions."""
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body else Img2ImgOptions


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "bad_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    refused = reply(ErrorSpec(error.status_code, "invalid_request_error", code), message)
    refused.headers.update(error.headers or {})  # Allow, of a 405
    return refused
