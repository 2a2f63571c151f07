"""Images inside JSON: the same forms of base64 are read in every contract, and no URL is fetched."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

IMAGE = smooth_image(3, 64, 48)
TEXT = base64.b64encode(png(IMAGE)).decode()
LINES = base64.encodebytes(png(IMAGE)).decode()  # 76 characters a line, and a line break at the end
Post = Callable[[Api, str], Any]
WRITTEN: dict[str, str] = {
    "plain": TEXT,
    "lines": LINES,
    "CRLF": LINES.replace("\n", "\r\n"),
    "space before": f" \t\n{TEXT}",
    "data URL": f"data:image/png;base64,{TEXT}",
    "data URL of lines": f"data:image/png;base64,\n{LINES}",
    "data URL after a space": f" DATA:image/png;base64, {TEXT}",
}


@pytest.fixture(scope="module")
def served() -> Api:
    return Api()


async def hugging_face(served: Api, text: str) -> httpx.Response:
    return await served.client.post("/models/a", json={"inputs": text})


async def web_ui(served: Api, text: str) -> httpx.Response:
    body = {"init_images": [text], "width": None, "height": None}
    return await served.client.post("/sdapi/v1/img2img", json=body)


async def web_ui_mask(served: Api, text: str) -> httpx.Response:
    body: dict[str, Any] = {
        "init_images": [TEXT],
        "mask": text,
        "width": None,
        "height": None,
        "inpaint_full_res": False,
    }
    body["inpainting_fill"] = 1
    return await served.client.post("/sdapi/v1/img2img", json=body)


async def png_info(served: Api, text: str) -> httpx.Response:
    return await served.client.post("/sdapi/v1/png-info", json={"image": text})


ROUTES: Any = pytest.mark.parametrize("post", [hugging_face, web_ui, web_ui_mask, png_info])


@ROUTES
@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
async def test_every_way_to_write_base64_is_read(post: Post, text: str, served: Api) -> None:
    reply = await post(served, text)
    assert reply.status_code == 200, reply.text
    assert all((request.pixels == IMAGE).all() for request in served.models["a"].requests[-1:])


@ROUTES
@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", " HTTPS://example.com/a.png", "file:///etc/passwd"])
async def test_url_is_refused_and_told_apart_from_bad_base64(post: Post, url: str, served: Api) -> None:
    reply = await post(served, url)
    assert (reply.status_code, "URLs are not fetched" in reply.text) == (400, True), reply.text


@ROUTES
@pytest.mark.parametrize("text", ["@@@", "abc", "data:image/png;base64", "a b c d e", "é"])
async def test_other_text_is_refused(post: Post, text: str, served: Api) -> None:
    reply = await post(served, text)
    assert reply.status_code in (400, 415), reply.text
    assert "base64" in reply.text or "image" in reply.text


async def test_parameters_of_null_are_the_defaults(served: Api) -> None:
    reply = await served.client.post("/models/a", json={"inputs": TEXT, "parameters": None})
    assert reply.status_code == 200, reply.text
