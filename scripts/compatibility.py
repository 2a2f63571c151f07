"""Writes docs/compatibility.md: every route and field of every contract, from the API's own OpenAPI document.

python -m scripts.compatibility
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deployments.allowed_values import with_range
from deployments.api import build_api
from deployments.config import REPO_ROOT, AppConfig, ModelConfig
from deployments.handles.readiness import Readiness
from deployments.service import Img2ImgService

TARGET = REPO_ROOT / "docs" / "compatibility.md"
HEAD = """# What each contract's parameters do here

Written by `python -m scripts.compatibility` from the code that serves them. What a contract documents and this server
does not do is refused by name with a 4xx status; what is listed as ignored changes nothing in the image.
"""
Schema = dict[str, Any]


def main() -> None:
    """Write the page."""
    TARGET.write_text(page())


def page() -> str:
    """The page as it should be."""
    config = AppConfig(models={"model": ModelConfig(checkpoint="none")})
    document = build_api(Img2ImgService(config, {}, Readiness("img2img", {}))).openapi()
    parts = [HEAD]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description']}\n")
        parts += [_route(document, path, method, route) for path, method, route in _routes(document, tag["name"])]
    return "\n".join(parts)


def _routes(document: Schema, tag: str) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            if route["tags"] == [tag]:
                yield path, method.upper(), route


def _route(document: Schema, path: str, method: str, route: Schema) -> str:
    text = f"### `{method} {path}`\n\n{' '.join(route.get('description', '').split())}\n"
    fields = [*_parameters(document, route), *_body(document, route)]
    if not fields:
        return text
    rows = "\n".join(f"| `{name}` | {kind} | {default} | {meaning} |" for name, kind, default, meaning in fields)
    return f"{text}\n| Field | Type | Default | Here |\n|---|---|---|---|\n{rows}\n"


def _parameters(document: Schema, route: Schema) -> Iterator[tuple[str, str, str, str]]:
    for parameter in route.get("parameters", []):
        schema = {"description": parameter.get("description", "")} | parameter["schema"]
        yield _field(document, parameter["name"], schema, required=parameter["required"])


def _body(document: Schema, route: Schema) -> Iterator[tuple[str, str, str, str]]:
    for content in route.get("requestBody", {}).get("content", {}).values():
        yield from _fields(document, _resolved(document, content["schema"]))


def _fields(document: Schema, schema: Schema, within: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        yield _field(document, within + name, field, required=name in schema.get("required", []))
        yield from _fields(document, _resolved(document, field), f"{within}{name}.")


def _field(document: Schema, name: str, schema: Schema, *, required: bool) -> tuple[str, str, str, str]:
    default = "required" if required else f"`{schema['default']!r}`" if schema.get("default") is not None else ""
    meaning = " ".join(schema.get("description", "").split()).replace("|", "\\|")
    return name, _kind(document, schema), default, meaning


def _kind(document: Schema, schema: Schema) -> str:
    """The type and range in a few words."""
    schema = _resolved(document, schema)
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_simple(document, _resolved(document, option)) for option in options))


def _simple(document: Schema, schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = "file" if "contentMediaType" in schema else schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(document, schema['items'])}" if schema.get("items") else "list"
    return with_range(str(kind), schema)


def _resolved(document: Schema, schema: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    resolved: Schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return resolved


if __name__ == "__main__":
    main()
