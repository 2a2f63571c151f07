"""The Hugging Face contract with its own Python client, and every contract with curl."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image, ImageOps

from deployments.engine.request import Pixels
from deployments.images.metadata import parse_parameters
from tests.support.images import file_of
from tests.support.reference import smooth_image
from tests.support.service import Service, pixels_of, png

pytestmark = [pytest.mark.service, pytest.mark.behind_haproxy, pytest.mark.xdist_group("http-api")]
IMAGE = smooth_image(3, 64, 48)
SOURCE = png(IMAGE)
SETTINGS: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "strength": 0.5,
    "num_inference_steps": 8,
    "guidance_scale": 6.5,
    "sampler": "euler",
    "seed": 7,
}
ALIAS = "runwayml/stable-diffusion-v1-5"


def native(service: Service, image: bytes = SOURCE, **fields: Any) -> Pixels:
    """What the native API makes of the same settings."""
    reply = service.post(image, **SETTINGS | fields)
    assert reply.status_code == 200, reply.text
    return pixels_of(reply.content)


@pytest.mark.parametrize("name", ["sd15", ALIAS, "auto"])
def test_client_gets_the_native_image(name: str, service: Service) -> None:
    url = f"{service.url}/models/{name}"
    for client, model in (
        (InferenceClient(base_url=url), None),
        (InferenceClient(), url),
        (InferenceClient(url), None),
    ):
        image = client.image_to_image(SOURCE, model=model, **SETTINGS)
        assert np.array_equal(np.array(image), native(service))


async def test_async_client_gets_the_native_image(service: Service) -> None:
    async with AsyncInferenceClient(base_url=f"{service.url}/models/sd15") as client:
        assert np.array_equal(np.array(await client.image_to_image(SOURCE, **SETTINGS)), native(service))


def test_without_parameters_the_defaults_hold_and_the_image_tells_its_seed(service: Service, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(SOURCE)
    image = InferenceClient(base_url=f"{service.url}/models/sd15").image_to_image(tmp_path / "image.png")
    seed = parse_parameters(image.info["parameters"])["Seed"]
    reply = service.post(SOURCE, seed=seed)
    assert np.array_equal(np.array(image), pixels_of(reply.content))


def test_target_size_crops_and_scales(service: Service) -> None:
    client = InferenceClient(base_url=f"{service.url}/models/sd15")
    image = client.image_to_image(SOURCE, target_size={"width": 640, "height": 64}, **SETTINGS)  # type: ignore[arg-type]
    cropped = ImageOps.fit(Image.fromarray(IMAGE), (640, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.array(image), native(service, file_of(cropped, "png"), max_side=640))


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"scheduler": "ddim"}, "parameters.scheduler"),
        ({"num_images": 2}, "parameters.num_images"),
        ({"model": "sd15"}, "parameters.model"),
        ({"strength": 2}, "parameters.strength"),
        ({"target_size": {"width": 48}}, "parameters.target_size.height"),
        ({"target_size": {"width": 48, "height": 8}}, "target_size"),
        ({"num_inference_steps": 999}, "num_inference_steps"),
    ],
)
def test_bad_parameter_is_refused_by_name(parameters: dict[str, Any], param: str, service: Service) -> None:
    body = {"inputs": base64.b64encode(SOURCE).decode(), "parameters": parameters}
    reply = service.client.post("/models/sd15", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_client_shows_what_is_wrong(service: Service) -> None:
    with pytest.raises(HfHubHTTPError, match=r"unknown field 'parameters.scheduler'"):
        InferenceClient(base_url=f"{service.url}/models/sd15").image_to_image(SOURCE, scheduler="ddim")
    with pytest.raises(HfHubHTTPError, match="no model 'none'; models: sd15"):
        InferenceClient(base_url=f"{service.url}/models/none").image_to_image(SOURCE)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"inputs": "@@@"}, 400, "inputs"),
        ({"inputs": base64.b64encode(b"no image").decode()}, 415, "inputs"),
        ({"parameters": {}}, 400, "inputs"),
        ({"inputs": "", "options": {}}, 400, "options"),
    ],
)
def test_bad_body_is_refused_by_name(body: dict[str, Any], status: int, param: str, service: Service) -> None:
    reply = service.client.post("/models/sd15", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


def test_data_url_is_an_image_too(service: Service) -> None:
    inputs = "data:image/png;base64," + base64.b64encode(SOURCE).decode()
    reply = service.client.post("/models/sd15", json={"inputs": inputs, "parameters": SETTINGS})
    assert np.array_equal(pixels_of(reply.content), native(service))
    assert (reply.headers["x-model"], reply.headers["x-seed"], reply.headers["x-steps"]) == ("sd15", "7", "4")


def curl(*arguments: str, cwd: Path) -> bytes:
    """Standard output of curl, which fails where the server refuses."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, timeout=120, stdout=subprocess.PIPE).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.png").write_bytes(SOURCE)
    return tmp_path


def forms(**fields: Any) -> list[str]:
    return [part for name, value in fields.items() for part in ("--form", f"{name}={value}")]


def test_curl_speaks_the_native_contract(service: Service, folder: Path) -> None:
    result = curl(f"{service.url}/v1/img2img", *forms(image="@in.png", **SETTINGS), cwd=folder)
    assert np.array_equal(pixels_of(result), native(service))


def test_curl_speaks_openais_contract(service: Service, folder: Path) -> None:
    fields = forms(image="@in.png", **SETTINGS)
    reply = json.loads(curl(f"{service.url}/v1/images/edits", *fields, cwd=folder))
    [image] = reply["data"]
    assert (image["seed"], image["revised_prompt"]) == (7, None)
    assert np.array_equal(pixels_of(base64.b64decode(image["b64_json"])), native(service))
    streamed = curl("--no-buffer", f"{service.url}/v1/images/edits", *fields, *forms(stream="true"), cwd=folder)
    name, data = [line for line in streamed.decode().splitlines() if line and not line.startswith(":")]
    assert name == "event: image_edit.completed"
    assert json.loads(data.removeprefix("data: "))["b64_json"] == image["b64_json"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_curl_speaks_hugging_faces_contract(output_format: str, service: Service, folder: Path) -> None:
    accept = f"accept: image/{output_format}"
    sent = ["--data-binary", "@in.png", "--header", "content-type: image/png", "--header", accept]
    result = curl(f"{service.url}/models/sd15", *sent, "--dump-header", "headers", cwd=folder)
    headers = dict(line.split(": ", 1) for line in (folder / "headers").read_text().splitlines() if ": " in line)
    assert headers["content-type"] == f"image/{output_format}"
    assert Image.open(io.BytesIO(result)).format == output_format.upper()
    expected = service.post(SOURCE, seed=headers["x-seed"], output_format=output_format)
    assert np.array_equal(pixels_of(result), pixels_of(expected.content))
