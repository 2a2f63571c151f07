"""OpenAI's contract with OpenAI's own Python client."""

from __future__ import annotations

import base64
import io
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent
from PIL import Image, ImageOps

from deployments.engine.request import Pixels
from tests.support.http_api import MODELS
from tests.support.images import file_of
from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, pixels_of, png, replica_pids

pytestmark = [pytest.mark.service, pytest.mark.behind_haproxy, pytest.mark.xdist_group("http-api")]
IMAGE = smooth_image(3, 64, 48)
SOURCE = png(IMAGE)
SETTINGS: dict[str, Any] = {
    "negative_prompt": "blurry",
    "strength": 0.5,
    "num_inference_steps": 8,
    "guidance_scale": 6.5,
    "sampler": "euler",
    "seed": 7,
}


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def edit(client: openai.OpenAI, image: Any = SOURCE, *, settings: dict[str, Any] = SETTINGS, **options: Any) -> Any:
    """One edit with the settings as extra fields."""
    return client.images.edit(image=image, **{"prompt": "a cat", "extra_body": settings, **options})


def only(response: Any) -> bytes:
    """The one image's file."""
    [image] = response.data
    return base64.b64decode(image.b64_json)


def native(service: Service, image: bytes = SOURCE, mask: bytes | None = None, **fields: Any) -> Pixels:
    """What the native API makes of the same settings."""
    files = {"image": image} | ({} if mask is None else {"mask": mask})
    reply = service.client.post("/v1/img2img", data={"prompt": "a cat"} | SETTINGS | fields, files=files)
    assert reply.status_code == 200, reply.text
    return pixels_of(reply.content)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_edit_is_the_native_image(output_format: str, client: openai.OpenAI, service: Service) -> None:
    response = edit(client, model="sd15", output_format=output_format)
    assert np.array_equal(pixels_of(only(response)), native(service, output_format=output_format))
    assert (response.output_format, response.size, response.quality) == (output_format, "64x48", "medium")
    assert response.usage.total_tokens == response.usage.input_tokens_details.image_tokens == 0
    assert (response.model, response.data[0].seed) == ("sd15", 7)


async def test_async_edit_is_the_native_image(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        response = await client.images.edit(image=("a.png", SOURCE), prompt="a cat", extra_body=SETTINGS)
    assert np.array_equal(pixels_of(only(response)), native(service))


def test_each_of_n_images_tells_the_seed_that_makes_it_alone(client: openai.OpenAI, service: Service) -> None:
    images = edit(client, n=2).data
    assert [image.seed for image in images] == [7, 8]
    for image in images:
        assert np.array_equal(pixels_of(base64.b64decode(image.b64_json)), native(service, seed=image.seed))


def test_headers_say_what_the_native_ones_say(client: openai.OpenAI) -> None:
    headers = client.images.with_raw_response.edit(image=SOURCE, prompt="a cat", extra_body=SETTINGS).headers
    assert (headers["x-model"], headers["x-seed"], headers["x-steps"]) == ("sd15", "7", "4")


def test_a_list_of_one_image_is_that_image(client: openai.OpenAI, service: Service) -> None:
    assert np.array_equal(pixels_of(only(edit(client, [SOURCE]))), native(service))


@pytest.mark.parametrize(
    "names", [{"rng_seed": 7, "num_images_per_prompt": 2}, {"seed": 7, "num_images": 2}, {"seed": 7, "n": 2}]
)
def test_names_of_other_servers_mean_the_same(names: dict[str, int], client: openai.OpenAI) -> None:
    response = edit(client, settings={"strength": 0.5, "num_inference_steps": 8, **names})
    assert [image.seed for image in response.data] == [7, 8]


def test_harmless_and_unknown_fields_change_nothing(client: openai.OpenAI, service: Service) -> None:
    response = edit(
        client,
        model="sd15",
        n=1,
        size="auto",
        response_format="b64_json",
        output_compression=100,
        background="auto",
        quality="auto",
        input_fidelity="low",
        stream=False,
        partial_images=0,
        user="me",
        safety_identifier="me",
        settings={**SETTINGS, "moderation": "low", "field_of_2030": "x"},
    )
    assert np.array_equal(pixels_of(only(response)), native(service))


def masks(box: tuple[int, int, int, int]) -> tuple[bytes, bytes]:
    """The same mask twice: transparent and white where the image may change."""
    white = Image.new("L", (64, 48), 0)
    white.paste(255, box)
    clear = Image.new("RGBA", white.size)
    clear.putalpha(ImageOps.invert(white))
    return file_of(clear, "png"), file_of(white, "png")


def test_mask_alpha_zero_is_what_changes(client: openai.OpenAI, service: Service) -> None:
    clear, white = masks((16, 8, 48, 40))
    result = pixels_of(only(edit(client, mask=clear)))
    outside = np.ones((48, 64), bool)
    outside[8:40, 16:48] = False
    assert np.array_equal(result[outside], IMAGE[outside])
    assert np.abs(result[~outside].astype(int) - IMAGE[~outside]).mean() > 2
    assert np.array_equal(result, native(service, mask=clear))
    assert np.array_equal(result, pixels_of(only(edit(client, mask=white))))


def test_mask_takes_its_mode_and_its_blur(client: openai.OpenAI, service: Service) -> None:
    _, white = masks((16, 8, 48, 40))
    extra: dict[str, Any] = {"mask_mode": "white", "mask_blur": 0}
    result = pixels_of(only(edit(client, mask=white, settings=SETTINGS | extra)))
    assert np.array_equal(result, native(service, mask=white, **extra))
    assert not np.array_equal(result, native(service, mask=white))


@pytest.mark.parametrize("size", [(48, 48), (32, 64), (128, 96), (63, 50)])
def test_size_crops_and_scales_but_never_stretches(
    size: tuple[int, int], client: openai.OpenAI, service: Service
) -> None:
    response = edit(client, size=f"{size[0]}x{size[1]}")
    result = pixels_of(only(response))
    assert (result.shape[1], result.shape[0]) == size
    assert response.size == f"{size[0]}x{size[1]}"
    cropped = np.array(ImageOps.fit(Image.fromarray(IMAGE), size, Image.Resampling.LANCZOS))
    assert np.array_equal(result, native(service, png(cropped)))


def test_model_sees_a_size_above_its_default_side(client: openai.OpenAI, service: Service) -> None:
    result = pixels_of(only(edit(client, size="640x64")))
    cropped = np.array(ImageOps.fit(Image.fromarray(IMAGE), (640, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(result, native(service, png(cropped), max_side=640))


def test_size_moves_the_mask_with_the_image(client: openai.OpenAI) -> None:
    clear, _ = masks((0, 0, 32, 48))
    result = pixels_of(only(edit(client, mask=clear, size="48x48")))
    source = IMAGE[:, 8:56]
    assert np.array_equal(result[:, 24:], source[:, 24:])
    assert np.abs(result[:, :24].astype(int) - source[:, :24]).mean() > 2


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"quality": "auto"}, 10),
        ({"quality": "standard"}, 10),
        ({"quality": "medium"}, 10),
        ({"quality": "low"}, 5),
        ({"quality": "high"}, 20),
        ({"quality": "high", "model": "mortal", "settings": {"strength": 0.02}}, 4),  # of the 200 that are allowed
        ({"quality": "high", "settings": {"strength": 0.5, "num_inference_steps": 6}}, 3),
        ({"quality": "low", "settings": {"strength": 0.06}}, 1),  # half of the 20 steps would leave none
    ],
)
def test_quality_is_denoising_steps(options: dict[str, Any], steps: int, client: openai.OpenAI) -> None:
    settings = options.pop("settings", {"strength": 0.5})
    raw = client.images.with_raw_response.edit(image=SOURCE, prompt="a cat", extra_body=settings, **options)
    assert raw.headers["x-steps"] == str(steps)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_output_compression_is_the_files_quality(output_format: str, client: openai.OpenAI) -> None:
    sizes = [
        len(only(edit(client, output_format=output_format, output_compression=quality))) for quality in (5, 60, 100)
    ]
    assert all(less < more for less, more in pairwise(sizes)), sizes


def test_background_opaque_drops_the_sources_transparency(client: openai.OpenAI) -> None:
    source = Image.fromarray(IMAGE).convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize(source.size).point(lambda alpha: max(alpha, 1)))
    kept, dropped = (edit(client, file_of(source, "png"), background=background) for background in ("auto", "opaque"))
    assert (kept.background, dropped.background) == ("transparent", "opaque")
    image = Image.open(io.BytesIO(only(kept)))
    assert image.getchannel("A").tobytes() == source.getchannel("A").tobytes()
    assert Image.open(io.BytesIO(only(dropped))).mode == "RGB"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"image": [SOURCE] * 2}, "image"),
    ({"response_format": "url"}, "response_format"),
    ({"output_format": "gif"}, "output_format"),
    ({"output_format": "svg"}, "output_format"),
    ({"output_format": "png", "output_compression": 50}, "output_compression"),
    ({"output_format": "jpeg", "output_compression": 101}, "output_compression"),
    ({"background": "transparent"}, "background"),
    ({"input_fidelity": "high"}, "input_fidelity"),
    ({"quality": "max"}, "quality"),
    ({"n": 4}, "n"),
    ({"n": 0}, "n"),
    ({"size": "15x64"}, "size"),
    ({"size": "64x4096"}, "size"),
    ({"size": "large"}, "size"),
    ({"partial_images": 4}, "partial_images"),
    ({"markup": SOURCE}, "markup"),
    ({"complexity": "low"}, "complexity"),
    ({"frame_count": 3}, "frame_count"),
    ({"frame_duration_ms": 100}, "frame_duration_ms"),
    ({"svg": {"model": "any"}}, "svg[model]"),
    ({"settings": {"true_cfg_scale": 4}}, "true_cfg_scale"),
    ({"settings": {"strength": 1.5}}, "strength"),
    ({"settings": {"loras": {"ink": 1}}}, "loras[ink]"),
    ({"settings": {"seed": [1, 2]}}, "seed[]"),
    ({"settings": {"mask_blur": 65}}, "mask_blur"),
    ({"settings": {"loras": "oil:0.8"}}, "loras"),  # there is no such adapter
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("options", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(
    options: dict[str, Any], param: str, stream: bool, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, stream=stream, **options)
    assert caught.value.param == param
    assert param in caught.value.message


def test_reason_for_no_url_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no store"):
        edit(client, response_format="url")


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model_is_not_found(stream: bool, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        edit(client, model="dall-e-2", stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_alias_is_the_model(client: openai.OpenAI) -> None:
    assert edit(client, model="gpt-image-1").model == "sd15"


def test_models_are_found_by_id_and_alias(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == MODELS
    for name in ("sd15", "gpt-image-1", "stable-diffusion-v1-5/stable-diffusion-v1-5"):
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == ("sd15", "model", "img2img-serve")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("dall-e-2")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("output_format", ["png", "jpeg"])
def test_stream_is_partial_images_then_the_image(output_format: str, client: openai.OpenAI, service: Service) -> None:
    settings = SETTINGS | {"num_inference_steps": 40}
    events = list(edit(client, stream=True, partial_images=3, output_format=output_format, settings=settings))
    *partial, completed = events
    assert all(isinstance(event, ImageEditPartialImageEvent) for event in partial)
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    for event in partial:
        image = Image.open(io.BytesIO(base64.b64decode(event.b64_json)))
        assert (image.size, image.format) == ((64, 48), output_format.upper())
    assert isinstance(completed, ImageEditCompletedEvent)
    expected = native(service, output_format=output_format, num_inference_steps=40)
    assert np.array_equal(pixels_of(base64.b64decode(completed.b64_json)), expected)
    assert (completed.seed, completed.size, completed.usage.total_tokens) == (7, "64x48", 0)  # type: ignore[attr-defined]


async def test_async_stream_completes_every_image_with_its_seed(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        stream = await client.images.edit(
            image=SOURCE, prompt="a cat", n=2, stream=True, partial_images=1, extra_body=SETTINGS
        )
        events = [event async for event in stream]
    received = [(event.type.partition(".")[2], event.image_index, event.seed) for event in events]  # type: ignore[union-attr]
    assert sorted(received[:2]) == [("partial_image", 0, 7), ("partial_image", 1, 8)]
    assert received[2:] == [("completed", 0, 7), ("completed", 1, 8)]
    for event in events[2:]:
        result = pixels_of(base64.b64decode(event.b64_json))
        assert np.array_equal(result, native(service, seed=event.seed))  # type: ignore[union-attr]


def test_stream_without_partial_images_is_the_image_alone(client: openai.OpenAI) -> None:
    assert [event.type for event in edit(client, stream=True)] == ["image_edit.completed"]


def test_failure_in_mid_stream_is_an_api_error(client: openai.OpenAI, service: Service) -> None:
    settings = {"strength": 1, "num_inference_steps": 200}
    stream = edit(
        client, png(smooth_image(4, 256, 256)), model="mortal", stream=True, partial_images=3, settings=settings
    )
    assert next(stream).type == "image_edit.partial_image"
    [replica] = replica_pids("mortal")
    os.kill(replica, signal.SIGKILL)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "replica_died"
    eventually(lambda: replica_pids("mortal") not in ([], [replica]) and service.models()["mortal"]["ready"])
