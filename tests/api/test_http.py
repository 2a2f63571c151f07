"""The native HTTP contract, over real HTTP."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from deployments.api.native import Img2ImgForm
from deployments.engine.request import Img2ImgRequest, Sampler
from deployments.images.metadata import parse_parameters, read_parameters
from tests.support.http_api import ALIASES
from tests.support.images import file_of, gradient
from tests.support.reference import Reference, smooth_image
from tests.support.service import Service, eventually, pixels_of, png, replica_pids

pytestmark = [pytest.mark.service, pytest.mark.behind_haproxy, pytest.mark.xdist_group("http-api")]
IMAGE = smooth_image(3, 64, 48)
QUICK = {"strength": "0.5", "num_inference_steps": "4", "seed": "7"}


@pytest.fixture(scope="module")
def replicas(service: Service) -> list[int]:
    """The processes of the router and of a model, as they are before the first bad request."""
    return replica_pids("sd15") + replica_pids("router")


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_reply_is_the_image_diffusers_gives(model: str, service: Service, checkpoints: Callable[[str], Path]) -> None:
    request = Img2ImgRequest("", IMAGE, "a cat", "blurry", 0.6, 7.5, 10, 42, "euler")
    names = ("prompt", "negative_prompt", "strength", "guidance_scale", "num_inference_steps", "seed", "sampler")
    reply = service.post(png(IMAGE), model=model, **{name: str(getattr(request, name)) for name in names})
    assert reply.status_code == 200, reply.text
    assert (reply.headers["x-model"], reply.headers["x-seed"], reply.headers["x-steps"]) == (model, "42", "6")
    assert reply.headers["x-request-id"]
    expected = Reference(checkpoints(model))(request)
    assert np.abs(pixels_of(reply.content).astype(int) - expected.astype(int)).max() <= 1


def test_same_request_gives_the_same_bytes(service: Service) -> None:
    first, second = (service.post(png(IMAGE), **QUICK) for _ in range(2))
    assert first.status_code == 200
    assert first.content == second.content


def test_json_reply_has_every_image_with_its_seed(service: Service) -> None:
    reply = service.post(png(IMAGE), accept="application/json", num_images="3", **QUICK)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert [image["seed"] for image in body["images"]] == [7, 8, 9]
    assert body["id"] == reply.headers["x-request-id"]
    assert body["model"] == "sd15"
    assert body["parameters"]["num_inference_steps"] == 4
    assert set(body["timings"]) == {"queued_s", "encode_s", "denoise_s", "decode_s"}
    alone = service.post(png(IMAGE), **{**QUICK, "seed": "8"})
    assert base64.b64decode(body["images"][1]["b64"]) == alone.content
    assert {(image["width"], image["height"], image["format"]) for image in body["images"]} == {(64, 48, "png")}


def test_what_is_left_out_takes_the_models_defaults_then_the_apps(service: Service) -> None:
    body = service.post(png(IMAGE), accept="application/json", model="sdxl").json()
    parameters = body["parameters"]
    assert (parameters["num_inference_steps"], parameters["strength"], parameters["guidance_scale"]) == (6, 0.3, 12.0)
    assert parameters["prompt"] == "in the style of picasso"
    assert 0 <= parameters["seed"] < 2**32


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_output_carries_its_parameters(output_format: str, service: Service) -> None:
    reply = service.post(png(IMAGE), prompt="a cat, 🏰", output_format=output_format, **QUICK)
    assert reply.headers["content-type"] == f"image/{output_format}"
    text = parse_parameters(read_parameters(reply.content) or "")
    assert (text["Prompt"], text["Steps"], text["Seed"], text["Model"]) == ("a cat, 🏰", "4", "7", "sd15")
    assert text["Denoising strength"] == "0.5"


@pytest.mark.parametrize(("width", "height"), [(64, 48), (61, 47), (300, 100), (33, 90)])
def test_reply_has_the_sources_size(width: int, height: int, service: Service) -> None:
    reply = service.post(png(gradient(width, height)), max_side="64", **QUICK)
    assert Image.open(io.BytesIO(reply.content)).size == (width, height)


def test_alpha_is_put_back(service: Service) -> None:
    source = Image.fromarray(IMAGE).convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize(source.size))
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    result = Image.open(io.BytesIO(service.post(buffer.getvalue(), **QUICK).content))
    assert result.mode == "RGBA"
    assert result.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_a_prompt_that_is_too_long_is_cut_and_the_reply_says_so(service: Service) -> None:
    body = service.post(png(IMAGE), accept="application/json", prompt="cat " * 100 + "unicorn", **QUICK)
    assert "unicorn" in body.json()["truncated"]
    assert body.headers["x-prompt-truncated"] == "true"
    assert "x-prompt-truncated" not in service.post(png(IMAGE), prompt="cat", **QUICK).headers


def test_aliases_and_auto_pick_a_model(service: Service) -> None:
    alias = service.post(png(IMAGE), model="runwayml/stable-diffusion-v1-5", **QUICK)
    assert alias.headers["x-model"] == "sd15"
    picked = [service.post(png(IMAGE), model="auto", **QUICK).headers["x-model"] for _ in range(2)]
    assert picked[0] == picked[1]


def test_a_model_that_is_not_ready_is_explained_and_its_fallback_serves(service: Service) -> None:
    card = service.models()["absent"]
    assert not card["ready"]
    eventually(lambda: "inpainting" in service.models()["absent"]["reason"])
    reply = service.post(png(IMAGE), model="absent", accept="application/json", **QUICK)
    assert (reply.headers["x-model"], reply.headers["x-fallback-for"]) == ("sd15", "absent")
    assert (reply.json()["model"], reply.json()["fallback_for"]) == ("sd15", "absent")
    assert "x-fallback-for" not in service.post(png(IMAGE), model="sd15", **QUICK).headers


def test_models_say_what_they_can_do(service: Service) -> None:
    reply = service.client.get("/v1/models").json()
    assert reply["object"] == "list"
    eventually(lambda: "family" in service.models()["sdxl"])  # a model that is ready may not have told what it is
    card = service.models()["sdxl"]
    assert (card["object"], card["owned_by"], card["family"], card["ready"]) == ("model", "img2img-serve", "sdxl", True)
    assert "euler" in card["samplers"]
    assert card["defaults"]["num_inference_steps"] == 6
    assert card["limits"]["max_images"] == 3
    assert service.models()["sd15"]["aliases"] == ALIASES


def test_openapi_describes_the_fields(service: Service) -> None:
    """Every field that a request may carry, with the type and bounds that a request is held to."""
    document = service.client.get("/openapi.json").json()
    operation = document["paths"]["/v1/img2img"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == set(Img2ImgForm.model_fields)
    assert form["required"] == ["image"]
    number, integer = bounds_of(form, "strength"), bounds_of(form, "num_inference_steps")
    assert number == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    assert integer == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert bounds_of(form, "sampler") == {"type": "string", "enum": list(get_args(Sampler))}


def bounds_of(schema: dict[str, Any], field: str) -> dict[str, Any]:
    """What the field's value must be where it is not null."""
    described = schema["properties"][field]
    (alternative,) = [one for one in described.get("anyOf", [described]) if one.get("type") != "null"]
    return {name: value for name, value in alternative.items() if name in ("type", "minimum", "maximum", "enum")}


def test_documentation_and_health_are_served(service: Service) -> None:
    page = service.client.get("/docs")
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert "/openapi.json" in page.text
    assert service.client.get("/healthz").json() == {"status": "ok"}


BAD_FIELDS = [
    ({"strength": "1.5"}, 400, "strength", "0 to 1"),
    ({"strength": "nan"}, 400, "strength", "strength"),
    ({"strength": "much"}, 400, "strength", "0 to 1"),
    ({"strength": "0.01", "num_inference_steps": "20"}, 400, "strength", "0.05"),
    ({"guidance_scale": "-1"}, 400, "guidance_scale", "0 to 50"),
    ({"num_inference_steps": "0"}, 400, "num_inference_steps", "from 1 to 1000"),
    ({"num_inference_steps": "201"}, 400, "num_inference_steps", "200"),
    ({"num_inference_steps": "2.5"}, 400, "num_inference_steps", "integer"),
    ({"num_inference_steps": "60", "sampler": "lcm"}, 400, "num_inference_steps", "50"),
    ({"seed": "-1"}, 400, "seed", "0 to"),
    ({"seed": str(2**63)}, 400, "seed", "0 to"),
    ({"sampler": "euler_b"}, 400, "sampler", "euler_ancestral"),
    ({"max_side": "5000"}, 400, "max_side", "2048"),
    ({"output_format": "tiff"}, 400, "output_format", "webp"),
    ({"num_images": "2"}, 400, "num_images", "application/json"),
    ({"prompt": "x" * 4001}, 400, "prompt", "4000"),
    ({"strenght": "0.5"}, 400, "strenght", "unknown field"),
    ({"model": "sd99"}, 404, "model", "sd15"),
]


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize(("fields", "status", "param", "hint"), BAD_FIELDS)
def test_bad_field_is_named_with_what_is_allowed(
    fields: dict[str, str], status: int, param: str, hint: str, service: Service
) -> None:
    reply = service.post(png(IMAGE), **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param), error
    assert hint in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


BAD_IMAGES = [
    (b"", 415, "empty"),
    (b"just some text", 415, "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"),
    (file_of(gradient(64, 64), "JPEG")[:400], 415, "not .* JPEG"),  # not even its header is whole
    (file_of(gradient(64, 64), "JPEG")[:700], 415, "JPEG .* is damaged"),
    (file_of(gradient(64, 64), "PNG")[:-60], 415, "PNG .* is damaged"),
    (file_of(gradient(1, 1), "PNG"), 400, "1x1"),
    (file_of(gradient(20000, 20), "PNG"), 400, "20000x20"),
    (file_of(gradient(2001, 2001), "PNG"), 413, "2001x2001; at most 4000000 pixels"),
    (bytes(2_000_001), 413, "2000001 bytes; at most 2000000"),
]


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize(("image", "status", "reason"), BAD_IMAGES, ids=[reason for _, _, reason in BAD_IMAGES])
def test_bad_image_is_refused_and_says_why(image: bytes, status: int, reason: str, service: Service) -> None:
    reply = service.post(image, name="photo.jpg", **QUICK)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, "image"), error
    assert re.search(reason, error["message"])


def test_cmyk_photo_is_served(service: Service) -> None:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(buffer, "JPEG")
    assert service.post(buffer.getvalue(), **QUICK).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/img2img", 405), ("POST", "/v1/img2img", 400)],
)
def test_wrong_calls_get_the_same_error_body(method: str, path: str, status: int, service: Service) -> None:
    reply = service.client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_no_bad_request_cost_a_replica(service: Service, replicas: list[int]) -> None:
    """The bad requests are those of the tests above."""
    assert service.post(png(IMAGE), **QUICK).status_code == 200
    assert replica_pids("sd15") + replica_pids("router") == replicas
    assert len(replicas) == 2
