"""The JSON form of OpenAI's image edits, which its gateways and coding tools send: images as data: URLs."""

from __future__ import annotations

import base64
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import pixels_of, png

IMAGE = smooth_image(3, 64, 48)
MASK = np.zeros((48, 64, 3), np.uint8)
MASK[8:40, 16:48] = 255


def data_url(image: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


URL = data_url(IMAGE)


@pytest.fixture(scope="module")
def served() -> Api:
    return Api(limits={"max_upload_bytes": 100_000})


async def edit(served: Api, **body: Any) -> httpx.Response:
    return await served.client.post("/v1/images/edits", json={"model": "a", "prompt": "a cat"} | body)


@pytest.mark.parametrize(
    "images",
    [
        {"images": [{"image_url": URL}]},
        {"images": [{"image_url": URL, "file_id": None}]},
        {"images": [URL]},
        {"image": URL},
        {"image": [URL]},
        {"image": {"image_url": URL}},
        {"image": {"image_url": {"url": URL}}},
    ],
)
async def test_data_url_is_edited(images: dict[str, Any], served: Api) -> None:
    reply = await edit(served, **images, seed=7, n=2, size="auto", quality=None, user={"id": 1}, more="ignored")
    assert reply.status_code == 200, reply.text
    assert [image["seed"] for image in reply.json()["data"]] == [7, 8]
    edited = pixels_of(base64.b64decode(reply.json()["data"][0]["b64_json"]))
    assert np.array_equal(edited, 255 - IMAGE)
    assert served.models["a"].requests[-1].prompt == "a cat"


@pytest.mark.parametrize("mask", [{"image_url": data_url(MASK)}, data_url(MASK)])
async def test_mask_keeps_the_rest(mask: Any, served: Api) -> None:
    reply = await edit(served, image=URL, mask=mask, mask_blur=0)
    assert reply.status_code == 200, reply.text
    edited = pixels_of(base64.b64decode(reply.json()["data"][0]["b64_json"]))
    assert np.array_equal(edited, np.where(MASK == 255, 255 - IMAGE, IMAGE))


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"images": [{"image_url": "https://example.com/a.png"}]}, "images", "only data: URLs"),
        ({"images": [{"file_id": "file-abc123"}]}, "images", "only data: URLs"),
        ({"image": "https://example.com/a.png"}, "image", "only data: URLs"),
        ({"image": URL, "mask": {"file_id": "file-abc123"}}, "mask", "only data: URLs"),
        ({"image": URL, "mask": "http://127.0.0.1/a.png"}, "mask", "only data: URLs"),
        ({"image": URL.partition(",")[2]}, "image", "only data: URLs"),
        ({"image": 7}, "image", "only data: URLs"),
        ({"image": "data:image/png;base64,@@@"}, "image", "base64"),
        ({"images": [URL, URL]}, "image", "exactly one image"),
        ({}, "image", "exactly one image"),
        ({"image": URL, "strength": 2}, "strength", "0 to 1"),
        ({"image": URL, "prompt": None}, "prompt", "required"),
        ({"image": URL, "prompt": {"text": "a cat"}}, "prompt", "string"),
        ({"image": URL, "response_format": "url"}, "response_format", "b64_json"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(body: dict[str, Any], param: str, says: str, served: Api) -> None:
    reply = await edit(served, **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error
    assert says in error["message"]


async def test_file_over_the_limit_is_too_large(served: Api) -> None:
    large = "data:image/png;base64," + base64.b64encode(bytes(100_001)).decode()
    assert (await edit(served, image=large)).status_code == 413


@pytest.mark.parametrize("body", [b"[]", b'"image"', b"7", b"{", b"\xff", b"[" * 100_000])
async def test_body_that_is_no_json_object_is_refused(body: bytes, served: Api) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    reply = await served.client.post("/v1/images/edits", content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "body")
    assert "JSON" in reply.json()["error"]["message"]
