"""An empty text is an empty text, in every contract; any other empty field of a form counts as left out."""

from __future__ import annotations

import base64
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

SOURCE = png(smooth_image(3, 64, 48))
TEXT = base64.b64encode(SOURCE).decode()
DEFAULTS = {"a": {"checkpoint": "none", "defaults": {"prompt": "a fox", "negative_prompt": "blurry"}}}


@pytest.fixture(scope="module")
def served() -> Api:
    return Api(models=DEFAULTS, defaults={"strength": 0.75})


async def native(served: Api, fields: dict[str, str]) -> httpx.Response:
    return await served.client.post("/v1/img2img", data=fields, files={"image": SOURCE})


async def openai(served: Api, fields: dict[str, str]) -> httpx.Response:
    return await served.client.post("/v1/images/edits", data=fields, files={"image": SOURCE})


async def hugging_face(served: Api, fields: dict[str, str]) -> httpx.Response:
    return await served.client.post("/models/a", json={"inputs": TEXT, "parameters": fields})


CONTRACTS: Any = pytest.mark.parametrize("post", [native, openai, hugging_face])


@CONTRACTS
async def test_empty_prompts_are_empty_in_every_contract(post: Any, served: Api) -> None:
    reply = await post(served, {"prompt": "", "negative_prompt": ""})
    assert reply.status_code == 200, reply.text
    request = served.models["a"].requests[-1]
    assert (request.prompt, request.negative_prompt) == ("", "")


async def test_web_ui_without_a_prompt_has_an_empty_one(served: Api) -> None:
    reply = await served.client.post("/sdapi/v1/img2img", json={"init_images": [TEXT], "prompt": ""})
    assert reply.status_code == 200, reply.text
    request = served.models["a"].requests[-1]
    assert (request.prompt, request.negative_prompt) == ("", None)


@pytest.mark.parametrize("post", [native, openai])
async def test_other_empty_fields_of_a_form_take_their_defaults(post: Any, served: Api) -> None:
    fields = {"prompt": "a cat", "seed": "", "strength": "", "sampler": "", "model": "", "loras": ""}
    reply = await post(served, fields)
    assert reply.status_code == 200, reply.text
    request = served.models["a"].requests[-1]
    assert (request.strength, request.negative_prompt, request.loras) == (0.75, "blurry", ())


@pytest.mark.parametrize("path", ["/v1/img2img", "/v1/images/edits"])
async def test_file_field_that_nobody_filled_in_counts_as_left_out(path: str, served: Api) -> None:
    """Browsers send it without a name and without a byte."""
    part = 'content-disposition: form-data; name="{}"; filename="{}"\r\n'
    image = b"--x\r\n" + part.format("image", "a.png").encode() + b"\r\n" + SOURCE + b"\r\n"
    mask = b"--x\r\n" + part.format("mask", "").encode() + b"content-type: application/octet-stream\r\n\r\n\r\n"
    prompt = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na cat\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = await served.client.post(path, content=image + mask + prompt, headers=headers)
    assert reply.status_code == 200, reply.text
    assert served.models["a"].requests[-1].mask is None


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n--x--"),
        (
            "multipart/form-data; boundary=x; charset=none",
            b'--x\r\ncontent-disposition: form-data; name="\xff"\r\n\r\n\r\n',
        ),
        ("application/x-www-form-urlencoded; charset=none", b"%ff=%ff&\xff"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/img2img", "/v1/images/edits"])
async def test_malformed_form_is_a_bad_request(content_type: str, body: bytes, path: str, served: Api) -> None:
    reply = await served.client.post(path, content=body, headers={"content-type": content_type})
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"error"}
