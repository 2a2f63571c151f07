"""Bodies of another contract's content type, and model names in another case."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

SOURCE = png(smooth_image(3, 64, 48))
TEXT = base64.b64encode(SOURCE).decode()
MODELS = {"b": {"checkpoint": "none"}, "sd15": {"checkpoint": "none", "aliases": ["Someone/SD-v1-5"]}}


@pytest.fixture(scope="module")
def served() -> Api:
    return Api(models=MODELS)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png", None])
async def test_body_that_is_no_form_is_told_to_be_one(content_type: str | None, served: Api) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await served.client.post("/v1/img2img", content=json.dumps({"prompt": "a cat"}), headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "content-type"), error
    assert "send multipart/form-data" in error["message"]


@pytest.mark.parametrize("path", ["/sdapi/v1/img2img", "/sdapi/v1/png-info", "/sdapi/v1/options", "/internal/progress"])
@pytest.mark.parametrize("sent", [{"data": {"prompt": "a cat"}}, {"files": {"image": SOURCE}}, {"content": b"{}"}])
async def test_form_is_told_to_be_json(path: str, sent: dict[str, Any], served: Api) -> None:
    reply = await served.client.post(path, **sent)
    assert reply.status_code == 400, reply.text
    assert "send application/json" in reply.json()["error"]["message"]


@pytest.mark.parametrize("sent", [{"data": {"prompt": "a cat"}}, {"files": {"image": SOURCE}}])
async def test_form_is_told_to_be_json_or_the_image_itself(sent: dict[str, Any], served: Api) -> None:
    reply = await served.client.post("/models/sd15", **sent)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "content-type"), error
    assert "send application/json, or the image itself as image/png" in error["message"]


@pytest.mark.parametrize(("path", "field"), [("/v1/img2img", "image"), ("/v1/images/edits", "image[]")])
async def test_text_in_place_of_a_file_is_told_how_a_file_is_sent(path: str, field: str, served: Api) -> None:
    reply = await served.client.post(path, data={"prompt": "a cat", field: "photo.png"})
    assert reply.status_code == 400
    assert "must be a file with a name, as `curl -F image=@photo.png`" in reply.json()["error"]["message"]


async def native(served: Api, model: str) -> httpx.Response:
    return await served.client.post("/v1/img2img", data={"model": model}, files={"image": SOURCE})


async def openai(served: Api, model: str) -> httpx.Response:
    fields = {"model": model, "prompt": "a cat"}
    return await served.client.post("/v1/images/edits", data=fields, files={"image": SOURCE})


async def card(served: Api, model: str) -> httpx.Response:
    return await served.client.get(f"/v1/models/{model}")


async def hugging_face(served: Api, model: str) -> httpx.Response:
    return await served.client.post(f"/models/{model}", content=SOURCE, headers={"content-type": "image/png"})


async def web_ui(served: Api, model: str) -> httpx.Response:
    body = {"init_images": [TEXT], "override_settings": {"sd_model_checkpoint": model}}
    return await served.client.post("/sdapi/v1/img2img", json=body)


@pytest.mark.parametrize("ask", [native, openai, card, hugging_face, web_ui])
@pytest.mark.parametrize(
    ("model", "is_known"), [("sd15", True), ("SD15", True), ("someone/sd-V1-5", True), ("sd16", False)]
)
async def test_routes_agree_on_the_case_of_models(ask: Any, model: str, is_known: bool, served: Api) -> None:
    made = len(served.models["sd15"].requests)
    reply = await ask(served, model)
    assert (reply.status_code == 200) == is_known, reply.text
    if is_known:
        assert len(served.models["sd15"].requests) == made + (ask is not card)


@pytest.mark.parametrize("ask", [native, openai, hugging_face])
async def test_auto_is_a_random_model_in_any_case(ask: Any, served: Api) -> None:
    for name in ("auto", "AUTO", "Auto"):
        reply = await ask(served, name)
        assert reply.status_code == 200, reply.text
