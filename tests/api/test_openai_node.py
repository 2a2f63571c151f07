"""OpenAI's contract with the openai package of npm, as programs in JavaScript use it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.http_api import MODELS
from tests.support.reference import smooth_image
from tests.support.service import Service, pixels_of, png

pytestmark = [
    pytest.mark.service,
    pytest.mark.node,
    pytest.mark.behind_haproxy,
    pytest.mark.xdist_group("http-api"),
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js and npm"),
]
IMAGE = smooth_image(3, 64, 48)
SETTINGS = {"prompt": "a cat", "strength": "0.5", "num_inference_steps": "8"}


@pytest.fixture(scope="module")
def printed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script prints."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "openai_client.mjs"):
        shutil.copy(Path(__file__).parents[1] / "support" / name, folder)
    (folder / "image.png").write_bytes(png(IMAGE))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=300)
    command = ["node", "openai_client.mjs", f"{service.url}/v1", "image.png"]
    output = subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.PIPE).stdout
    result: dict[str, Any] = json.loads(output)
    return result


def assert_native(b64: str, seed: int, service: Service) -> None:
    expected = service.post(png(IMAGE), **SETTINGS, seed=str(seed))
    assert np.array_equal(pixels_of(base64.b64decode(b64)), pixels_of(expected.content))


def test_edits_are_the_native_images_and_tell_their_seeds(printed: dict[str, Any], service: Service) -> None:
    images = printed["edited"]["data"]
    assert [image["seed"] for image in images] == [7, 8]
    for image in images:
        assert_native(image["b64_json"], image["seed"], service)


def test_stream_has_partial_images_and_ends_with_the_image(printed: dict[str, Any], service: Service) -> None:
    *partial, completed = printed["events"]
    assert [(event["type"], event["partial_image_index"]) for event in partial] == [
        ("image_edit.partial_image", 0),
        ("image_edit.partial_image", 1),
    ]
    assert {pixels_of(base64.b64decode(event["b64_json"])).shape for event in partial} == {IMAGE.shape}
    assert (completed["type"], completed["seed"], completed["usage"]["total_tokens"]) == ("image_edit.completed", 7, 0)
    assert_native(completed["b64_json"], 7, service)


def test_models_are_listed_and_found(printed: dict[str, Any]) -> None:
    assert printed["models"] == MODELS
    assert (printed["retrieved"]["id"], printed["retrieved"]["object"]) == ("sd15", "model")


def test_errors_are_the_packages_own(printed: dict[str, Any]) -> None:
    assert printed["errors"] == [
        {"name": "BadRequestError", "status": 400, "param": "response_format"},
        {"name": "NotFoundError", "status": 404, "param": "model"},
    ]
