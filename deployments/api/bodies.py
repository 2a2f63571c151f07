"""Bodies of fields: forms, and JSON for the contracts that have it. FastAPI's own forms drop every empty text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from deployments.engine.errors import InvalidRequest

Fields = TypeVar("Fields", bound=BaseModel)
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAY_BE_EMPTY = ("prompt", "negative_prompt")  # any other empty field counts as left out, as browsers send it


def form_of(
    model: type[Fields], from_json: Callable[[Any], Any] | None = None
) -> Callable[[Request], AsyncIterator[Fields]]:
    """A dependency that reads the fields of `model` from a form, and with `from_json` from JSON too.

    `from_json` turns the parsed JSON into the values of the fields. Raises RequestValidationError and InvalidRequest.
    """

    async def read(request: Request) -> AsyncIterator[Fields]:
        kind = content_type(request)
        if kind in FORMS:
            form = await _form(request)
            try:
                yield validate(model, _values(model, form))
            finally:
                await form.close()
        elif kind == "application/json" and from_json is not None:
            yield validate(model, from_json(await _parsed(request)))
        else:
            expected = "multipart/form-data" + (" or application/json" if from_json else "")
            raise InvalidRequest(f"the body's content type is {kind or 'missing'}: send {expected}", "content-type")

    return read


def content_type(request: Request) -> str:
    """The content type without its parameters, in lower case; "" if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def validate(model: type[Fields], values: Any) -> Fields:
    """The fields with these values. Raises RequestValidationError, which names the field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from error


def _values(model: type[BaseModel], form: FormData) -> dict[str, Any]:
    """The form's values by name: all of a list's, the last of any other."""
    lists = {field.alias or name for name, field in model.model_fields.items() if isinstance(field.default, list)}
    values = {name: form.getlist(name) if name in lists else form[name] for name in form}
    return {name: value for name, value in values.items() if not _is_left_out(name, value)}


def _is_left_out(name: str, value: Any) -> bool:
    """Whether it is what browsers send for a field that nobody filled in."""
    if isinstance(value, UploadFile):
        return not value.filename and not value.size
    return value == "" and name not in MAY_BE_EMPTY


async def _form(request: Request) -> FormData:
    try:
        return await request.form()
    except HTTPException:
        raise
    except Exception as error:  # of the parser, which documents none
        raise InvalidRequest(f"the body is not a form: {error}", "body") from error


async def _parsed(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", "body") from error


def described(model: type[BaseModel], json: dict[str, Any] | None = None) -> dict[str, Any]:
    """The route's `openapi_extra`: the model's fields as a form, and the schema of the JSON body, if it has one."""
    content = {"multipart/form-data": {"schema": model.model_json_schema()}}
    if json is not None:
        content["application/json"] = {"schema": json}
    return {"requestBody": {"required": True, "content": content}}
