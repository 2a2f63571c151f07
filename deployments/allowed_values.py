"""The values that a field takes, in words, from its JSON schema."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from deployments.schemas import Img2ImgOptions

SHOWN_CHARS = 100
NUMBERS = {"integer": "a whole number", "number": "a number"}


def refusal(error: ValidationError) -> tuple[str, str]:
    """The first refused field of an Img2ImgOptions, and the reason: ("strength", "'2' is not a number from 0 to 1")."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    return field, f"{_shown(first['input'])} is not {allowed(field)}"


@cache
def allowed(field: str) -> str:
    """The values that a field of Img2ImgOptions takes, for example "a number from 0 to 50"."""
    schema = _schema(field)
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    return allowed_numbers(field) or f"text of at most {schema['maxLength']} characters"


@cache
def allowed_numbers(field: str, model: type[BaseModel] = Img2ImgOptions) -> str:
    """As `allowed`, for a field of `model` or else of Img2ImgOptions; "" for an unknown field, or one of no number."""
    schema = _schema(field, model) or _schema(field)
    return with_range(NUMBERS[schema["type"]], schema) if schema.get("type") in NUMBERS else ""


def with_range(kind: str, schema: dict[str, Any]) -> str:
    """`kind` with the schema's bounds: "integer of at least 1", "a number from 0 to 50"."""
    least, most = _text(schema.get("minimum")), _text(schema.get("maximum"))
    if least is None:
        return kind if most is None else f"{kind} of at most {most}"
    return f"{kind} of at least {least}" if most is None else f"{kind} from {least} to {most}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def _text(number: float | None) -> str | None:
    if number is None:
        return None
    return f"{number:g}" if isinstance(number, float) else str(number)


def _schema(field: str, model: type[BaseModel] = Img2ImgOptions) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema()["properties"].get(field, {})
    first: dict[str, Any] = schema.get("anyOf", [schema])[0]
    return first
