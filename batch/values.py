"""What a setting of an image may be, in words, for people who wrote another value into an option or a file."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError

from deployments.schemas import Img2ImgOptions


def refusal(error: ValidationError) -> tuple[str, str]:
    """The first field that the settings' model refused, and why: ("strength", "'2' is not a number from 0 to 1")."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    return field, f"{first['input']!r} is not {allowed(field)}"


@cache
def allowed(field: str) -> str:
    """The values that a field of Img2ImgOptions takes, for example "a number from 0 to 50"."""
    schema = Img2ImgOptions.model_json_schema()["properties"][field]
    kind: dict[str, Any] = schema.get("anyOf", [schema])[0]
    if "enum" in kind:
        return "one of " + ", ".join(kind["enum"])
    if kind["type"] == "string":
        return "text"
    number = {"integer": "a whole number", "number": "a number"}[kind["type"]]
    least, most = kind["minimum"], kind.get("maximum")
    return f"{number} of at least {least}" if most is None else f"{number} from {least} to {most}"
