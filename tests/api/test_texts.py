"""Texts of callers: each has a bound in its schema, and half a character in one is neither a 500 nor a traceback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import typer

from batch.options import image_options, usage_errors
from batch.planning.manifest import read_rows
from batch.planning.sweep import Sweep
from deployments.allowed_values import refusal
from deployments.api.huggingface import Parameters
from deployments.config import MAX_PROMPT_CHARS, AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions
from tests.support.images import file_of, gradient
from tests.support.in_process import Api, api

IMAGE = base64.b64encode(file_of(gradient(), "png")).decode()
HALF = "\ud800"
DOCUMENT = Api().app.openapi()


def strings_without_bound(schema: dict[str, Any], path: str) -> Iterator[str]:
    """The paths of the strings in a schema that may have any length, files apart."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema or "const" in schema:
        return
    is_file = "contentMediaType" in schema or schema.get("format") == "binary"
    if schema.get("type") == "string" and "maxLength" not in schema and not is_file:
        yield path
    for name, each in schema.get("properties", {}).items():
        yield from strings_without_bound(each, f"{path}.{name}")
    for each in (*schema.get("anyOf", []), *schema.get("allOf", [])):
        yield from strings_without_bound(each, path)
    if isinstance(schema.get("items"), dict):
        yield from strings_without_bound(schema["items"], f"{path}[]")


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_string_of_every_contract_has_a_bound(path: str) -> None:
    found = []
    for method, operation in DOCUMENT["paths"][path].items():
        for parameter in operation.get("parameters", []):
            found += strings_without_bound(parameter["schema"], f"{method} {parameter['name']}")
        for content in operation.get("requestBody", {}).get("content", {}).values():
            found += strings_without_bound(content["schema"], method)
    assert found == []


async def post(path: str, body: str) -> httpx.Response:
    async with api(models={"sd15": {"checkpoint": "none"}}) as served:
        return await served.client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/models/sd15", '{"inputs": "aaaa", "\\ud800": 1}', None),
        ("/models/sd15", '{"inputs": "\\ud800"}', "inputs"),
        ("/models/sd15", '{"inputs": "aaaa", "parameters": {"sampler": "\\ud800"}}', "parameters.sampler"),
        ("/sdapi/v1/img2img", '{"init_images": ["data:\\ud800,aaaa"]}', "init_images.0"),
        ("/sdapi/v1/img2img", '{"init_images": ["aaaa"], "script_name": "\\ud800"}', "script_name"),
        ("/sdapi/v1/png-info", '{"image": "\\ud800"}', "image"),
        ("/sdapi/v1/options", '{"sd_model_checkpoint": "%s"}' % ("a" * 201), "sd_model_checkpoint"),
    ],
)
async def test_text_that_is_refused_is_a_400_that_names_the_field(path: str, body: str, param: str | None) -> None:
    reply = await post(path, body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_half_a_character_in_the_shared_options_is_replaced() -> None:
    for options in (Img2ImgOptions, Parameters):
        fields = options.model_validate({"prompt": f"a {HALF}", "negative_prompt": HALF, "loras": f"{HALF}:1"})
        assert (fields.prompt, fields.negative_prompt, fields.loras) == ("a ?", "?", "?:1")
    assert Img2ImgOptions(model=HALF).model == "?"


def test_half_a_character_in_a_table_or_on_the_command_line_is_replaced_or_refused() -> None:
    [row] = read_rows("a.jsonl", b'{"image": "a.png", "prompt": "a \\ud800"}', ["/in/"])
    assert row.overrides.prompt == "a ?"
    assert image_options(prompt="caf\udce9").prompt == "caf?"
    assert Sweep.parse({"model": "a,\udce9"}).values == {"model": ("a", "?")}
    for name, table in (("a.jsonl", b'{"image": "\\ud800.png"}'), ("a.csv", b"image,prompt\na.png,\xed\xa0\x80")):
        with pytest.raises(InvalidRequest) as caught:
            read_rows(name, table, ["/in/"])
        assert caught.value.message.isascii()


def test_error_about_a_file_name_that_is_not_unicode_can_be_printed() -> None:
    with pytest.raises(typer.BadParameter) as caught, usage_errors():
        raise InvalidRequest("\udce9.csv, row 2: no", "input")
    assert caught.value.message == "?.csv, row 2: no"


@pytest.mark.parametrize("loras", ["a" * 10_000, ",".join(f"a{number}" for number in range(2000))])
async def test_loras_whose_written_out_weights_exceed_the_bound_are_a_400(loras: str) -> None:
    reply = await post("/models/sd15", json.dumps({"inputs": IMAGE, "parameters": {"loras": loras}}))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "parameters.loras")


@pytest.mark.parametrize("prompt", ["<lora:a:1>" * 2501, f"<lora:{'a' * 9999}>"])
async def test_tags_of_too_many_loras_are_a_400(prompt: str) -> None:
    reply = await post("/sdapi/v1/img2img", json.dumps({"init_images": [IMAGE], "prompt": prompt}))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")


def test_prompt_beyond_its_bound_is_refused_in_few_words() -> None:
    with pytest.raises(ValueError, match="at most 100000 characters") as caught:
        Img2ImgOptions(prompt="a" * (MAX_PROMPT_CHARS + 1))
    assert len(refusal(caught.value)[1]) < 200  # type: ignore[arg-type]


def test_default_prompt_of_the_configuration_is_unicode() -> None:
    with pytest.raises(ValueError, match="prompt"):
        AppConfig(models={"a": {"checkpoint": "a"}}, defaults={"prompt": HALF})
