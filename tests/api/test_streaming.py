"""Server-Sent Events of the native API, masks and adapters over HTTP."""

from __future__ import annotations

import base64
import io
import json
from http.client import HTTPConnection
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.images import file_of
from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, pixels_of, png

pytestmark = [pytest.mark.service, pytest.mark.behind_haproxy, pytest.mark.xdist_group("http-api")]
IMAGE = smooth_image(3, 64, 48)
PHOTO = Path("data/input_images/astronaut.jpg")
QUICK = {"strength": "0.5", "num_inference_steps": "8", "seed": "7"}


def test_stream_ends_with_the_reply_that_json_gives(service: Service) -> None:
    *progress, (name, completed) = service.events(png(IMAGE), **QUICK)
    assert name == "completed"
    expected = service.post(png(IMAGE), accept="application/json", **QUICK).json()
    assert completed["images"] == expected["images"]
    assert completed["parameters"] == expected["parameters"]
    assert {name for name, _ in progress} == {"progress"}
    steps = [(data["image"], data["place"], data["step"], data["num_steps"]) for _, data in progress]
    assert steps == sorted(steps, key=lambda step: step[2])
    assert {step[3] for step in steps} == {4}


def test_every_image_of_a_request_has_progress_of_its_own(service: Service) -> None:
    *progress, (_, completed) = service.events(png(IMAGE), num_images="3", **QUICK)
    assert [image["seed"] for image in completed["images"]] == [7, 8, 9]
    assert {data["image"] for _, data in progress} == {0, 1, 2}


def test_previews_come_closer_to_the_result_with_every_step(service: Service) -> None:
    """Their correlation with it rises."""
    photo = file_of(Image.open(PHOTO).resize((128, 128)), "png")
    settings = {"model": "trained", "strength": "0.7", "num_inference_steps": "20", "seed": "3"}
    *progress, (_, completed) = service.events(photo, **settings)
    result = Image.open(io.BytesIO(base64.b64decode(completed["images"][0]["b64"]))).convert("RGB")
    alike = []
    for _, data in progress:
        if data["preview"]:
            preview = Image.open(io.BytesIO(base64.b64decode(data["preview"])))
            assert preview.size == (32, 32)
            small = np.asarray(result.resize(preview.size, Image.Resampling.BOX), float)
            alike.append(float(np.corrcoef(np.asarray(preview, float).ravel(), small.ravel())[0, 1]))
    assert alike[-1] > 0.6, alike
    third = len(alike) // 3
    assert np.mean(alike[:third]) < np.mean(alike[third:-third]) < np.mean(alike[-third:]), alike


@pytest.mark.parametrize(
    ("fields", "status"), [({"strength": "2"}, 400), ({"model": "none"}, 404), ({"loras": "oil"}, 400)]
)
def test_bad_request_is_an_ordinary_error_not_a_stream(fields: dict[str, str], status: int, service: Service) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        list(service.events(png(IMAGE), **fields))
    assert caught.value.response.status_code == status
    assert caught.value.response.json()["error"]["param"] == next(iter(fields))


def test_client_who_leaves_the_stream_frees_the_engine(service: Service) -> None:
    before = service.stats("sd15")["aborted"]
    events = service.events(png(smooth_image(4, 256, 256)), strength="1", num_inference_steps="150")
    next(events)
    events.close()  # type: ignore[attr-defined]
    eventually(lambda: service.stats("sd15")["aborted"] == before + 1)


def test_reader_who_does_not_read_holds_up_nobody(service: Service) -> None:
    unread = service.events(png(IMAGE), strength="1", num_inference_steps="40", num_images="3")
    next(unread)
    assert service.post(png(IMAGE), **QUICK).status_code == 200
    assert list(unread)[-1][0] == "completed"


def mask_of(box: tuple[int, int, int, int]) -> bytes:
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, box)
    return file_of(mask, "png")


def test_mask_keeps_the_sources_pixels_outside(service: Service) -> None:
    files = {"image": png(IMAGE), "mask": mask_of((16, 8, 48, 40))}
    reply = service.client.post("/v1/img2img", data=QUICK, files=files)
    assert reply.status_code == 200, reply.text
    result = pixels_of(reply.content)
    outside = np.ones((48, 64), bool)
    outside[8:40, 16:48] = False
    assert np.array_equal(result[outside], IMAGE[outside])
    assert np.abs(result[~outside].astype(int) - IMAGE[~outside]).mean() > 2


@pytest.mark.parametrize(
    ("mask", "fields", "status", "param"),
    [
        (b"no image", {}, 415, "mask"),
        (mask_of((0, 0, 9, 9)), {"mask_mode": "transparent"}, 400, "mask"),
        (mask_of((0, 0, 9, 9)), {"mask_mode": "black"}, 400, "mask_mode"),
        (mask_of((0, 0, 9, 9)), {"mask_blur": "65"}, 400, "mask_blur"),
    ],
)
def test_bad_mask_is_refused_by_name(
    mask: bytes, fields: dict[str, str], status: int, param: str, service: Service
) -> None:
    reply = service.client.post("/v1/img2img", data=QUICK | fields, files={"image": png(IMAGE), "mask": mask})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


def test_adapter_changes_the_image_and_is_told_in_it(service: Service) -> None:
    plain = service.post(png(IMAGE), **QUICK)
    adapted = service.post(png(IMAGE), loras="ink:0.8", accept="application/json", **QUICK).json()
    image = base64.b64decode(adapted["images"][0]["b64"])
    assert not np.array_equal(pixels_of(image), pixels_of(plain.content))
    assert adapted["parameters"]["loras"] == "ink:0.8"
    assert b"Loras: ink:0.8" in image or b'Loras: "ink:0.8"' in image
    assert service.models()["sd15"]["loras"] == ["ink"]


def test_body_over_the_limit_is_refused_before_it_is_read(service: Service) -> None:
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/img2img")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("content-length", str(200 * 1024**2))
    connection.endheaders(b"--x")
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]["code"]) == (413, "too_large")
    connection.close()
