"""Every list and number that a caller may send is bounded in its schema, so that it is refused before any work."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from deployments.schemas import MAX_SEED
from tests.support.images import file_of, gradient
from tests.support.in_process import Api

Schema = dict[str, Any]
IMAGE = file_of(gradient(), "PNG")
ENCODED = base64.b64encode(IMAGE).decode()


@pytest.fixture(scope="module")
def served() -> Api:
    return Api(limits={"max_images": 4, "max_upload_bytes": 4 * 2**20})


def unbounded(document: Schema, schema: Schema, name: str) -> list[str]:
    """The numbers without both ends and the lists without a most length, by their path."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema or "const" in schema:
        return []
    found = [
        path
        for inner, part in schema.get("properties", {}).items()
        for path in unbounded(document, part, f"{name}.{inner}")
    ]
    found += [path for part in schema.get("anyOf", []) for path in unbounded(document, part, name)]
    found += unbounded(document, schema["items"], f"{name}[]") if "items" in schema else []
    needed = {"integer": {"minimum", "maximum"}, "number": {"minimum", "maximum"}, "array": {"maxItems"}}
    return found + ([name] if needed.get(schema.get("type", ""), set()) - schema.keys() else [])


def test_every_list_and_number_of_every_contract_has_bounds(served: Api) -> None:
    document = served.app.openapi()
    found = [
        path
        for route, methods in document["paths"].items()
        for operation in methods.values()
        for schema in [
            *(parameter["schema"] for parameter in operation.get("parameters", [])),
            *(content["schema"] for content in operation.get("requestBody", {}).get("content", {}).values()),
        ]
        for path in unbounded(document, schema, route)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 4), ("n_iter", 1000), ("width", 10**9), ("width", 0), ("steps", 10**6), ("seed", -2)]
    + [("seed", 2**63), ("init_images", ["x"] * 2000), ("subseed", 10**30), ("script_args", [0] * 2000)]
    + [("cfg_scale", 1e300), ("mask_blur", 10**4), ("s_tmax", -1), ("inpaint_full_res_padding", 10**9)],
)
async def test_a_value_beyond_its_bound_is_refused_by_name(field: str, value: Any, served: Api) -> None:
    body = {"init_images": [ENCODED], "n_iter": 2, "steps": 2} | {field: value}
    refused = await served.client.post("/sdapi/v1/img2img", json=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] in (field, "batch_size")


@pytest.mark.parametrize(
    ("path", "body", "field", "values"),
    [
        ("/sdapi/v1/img2img", {"seed": -2}, "seed", f"from -1 to {MAX_SEED}"),
        ("/sdapi/v1/img2img", {"seed": MAX_SEED + 1}, "seed", f"from -1 to {MAX_SEED}"),
        ("/sdapi/v1/img2img", {"steps": 0}, "steps", "from 1 to 1000"),
        ("/models/a", {"inputs": ENCODED, "parameters": {"seed": -1}}, "parameters.seed", f"from 0 to {MAX_SEED}"),
    ],
)
async def test_refusal_of_a_number_names_the_range_of_the_route(
    path: str, body: dict[str, Any], field: str, values: str, served: Api
) -> None:
    error = (await served.client.post(path, json=body)).json()["error"]
    assert error["param"] == field
    assert f"(a whole number {values})" in error["message"]


@pytest.mark.parametrize("side", [0, -1, 10**9])
async def test_a_target_size_beyond_its_bound_is_refused_by_name(side: int, served: Api) -> None:
    body = {"inputs": ENCODED, "parameters": {"target_size": {"width": side, "height": 64}}}
    refused = await served.client.post("/models/a", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "parameters.target_size.width")


HOSTILE_JSON = {
    "many values": b'{"init_images": [' + b"1," * 5_000_000 + b"1]}",
    "many fields": b'{"a": 1' + b',"b": 1' * 2_000_000 + b"}",
    "deep": b"[" * 5_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "digits": b'{"steps": ' + b"9" * 5_000_000 + b"}",
}
HOSTILE_FORMS = {"names": b"a&" * 3_000_000, "fields": b"a=b&" * 2_000_000, "text": b"a=" + b"b" * 5_000_000}


@pytest.mark.parametrize("kind", HOSTILE_JSON)
@pytest.mark.parametrize("path", ["/models/a", "/sdapi/v1/img2img", "/sdapi/v1/options", "/internal/progress"])
async def test_json_of_many_values_is_refused_without_parsing_it(path: str, kind: str, served: Api) -> None:
    headers = {"content-type": "application/json"}
    started = time.process_time()
    refused = await served.client.post(path, content=HOSTILE_JSON[kind], headers=headers)
    assert (400 <= refused.status_code < 500, time.process_time() - started < 0.2) == (True, True), refused.text[:300]


@pytest.mark.parametrize("kind", HOSTILE_FORMS)
async def test_a_form_of_many_fields_is_refused_early(kind: str, served: Api) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    started = time.process_time()
    refused = await served.client.post("/v1/img2img", content=HOSTILE_FORMS[kind], headers=headers)
    assert (refused.status_code, time.process_time() - started < 0.5) == (400, True), refused.text[:300]


async def test_commas_of_ordinary_requests_are_no_reason_to_refuse(served: Api) -> None:
    body = {"init_images": [f"data:image/png;base64,{ENCODED}"], "prompt": "a, b, " * 600, "steps": 2}
    assert (await served.client.post("/sdapi/v1/img2img", json=body)).status_code == 200
