"""AUTOMATIC1111's web UI, spoken by its own client, `webuiapi`, and by hand."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image
from ray import serve

from deployments.api.webui.mapping import strength_for
from deployments.config import WEBUI_STATE
from deployments.engine.request import Pixels
from tests.support.images import file_of
from tests.support.loras import build_lora
from tests.support.reference import smooth_image
from tests.support.service import APP, Service, eventually, pixels_of, png, serving

pytestmark = pytest.mark.service
IMAGE = smooth_image(3, 64, 48)
SIZE = {"width": 64, "height": 48}
QUICK = {**SIZE, "denoising_strength": 0.5, "steps": 8, "seed": 7, "cfg_scale": 4.0, "sampler_name": "DPM++ 2M"}
# The same in our words: int(0.5 * 8) + 1 of 8 steps.
NATIVE = {
    "strength": str(strength_for(0.5, 8)),
    "num_inference_steps": "8",
    "seed": "7",
    "guidance_scale": "4",
    "sampler": "dpmpp_2m_karras",
    "prompt": "a cat",
    "max_side": "64",
}
LONG = {"width": 256, "height": 256, "denoising_strength": 1.0, "steps": 150, "seed": 1}


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    checkpoint = checkpoints("sd15")
    ink = build_lora(checkpoint, tmp_path_factory.mktemp("loras") / "ink.safetensors", seed=1)
    models: dict[str, dict[str, Any]] = {
        "sd15": {"checkpoint": str(checkpoint), "reproducible": True, "revision": None, "loras": {"ink": str(ink)}},
        "Second": {"checkpoint": str(checkpoints("sd21")), "reproducible": True, "aliases": ["org/second"]},
    }
    two_routers = {"router": {"num_replicas": 2}}  # what one knows, the other must know
    with serving(models, limits={"max_images": 4, "max_side": 256}, deployments=two_routers) as service:
        yield service


@pytest.fixture(scope="module")
def api(service: Service) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{service.url}/sdapi/v1", sampler="DPM++ 2M", steps=8)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def post(service: Service, **fields: Any) -> httpx.Response:
    body = {"init_images": [b64(png(IMAGE))], "prompt": "a cat", **QUICK, **fields}
    return service.client.post("/sdapi/v1/img2img", json=body)


def images_of(reply: httpx.Response) -> list[Pixels]:
    assert reply.status_code == 200, reply.text
    return [pixels_of(base64.b64decode(image)) for image in reply.json()["images"]]


def native(service: Service, image: Pixels = IMAGE, **fields: str) -> Pixels:
    reply = service.post(png(image), **NATIVE | fields)
    assert reply.status_code == 200, reply.text
    return pixels_of(reply.content)


def rgb(image: Image.Image) -> Pixels:
    return np.array(image.convert("RGB"))


def num_state_replicas() -> int:
    return sum(serve.status().applications[APP].deployments[WEBUI_STATE].replica_states.values())


def test_state_costs_nothing_until_it_is_asked_for(service: Service) -> None:
    assert service.client.get("/sdapi/v1/samplers").status_code == 200
    assert service.post(png(IMAGE), **NATIVE).status_code == 200
    assert num_state_replicas() == 0
    assert service.client.get("/sdapi/v1/progress").json()["progress"] == 0.0
    assert num_state_replicas() == 1


def test_client_gets_the_image_that_our_own_contract_gives(service: Service, api: webuiapi.WebUIApi) -> None:
    result = api.img2img([Image.fromarray(IMAGE)], prompt="a cat", **QUICK)
    assert np.array_equal(rgb(result.image), native(service))
    assert (result.info["seed"], result.info["all_seeds"], result.info["sampler_name"]) == (7, [7], "DPM++ 2M")
    assert result.parameters["init_images"] is None
    assert result.image.info["parameters"] == result.info["infotexts"][0]


def test_client_gets_a_batch_with_a_seed_for_each_image(service: Service, api: webuiapi.WebUIApi) -> None:
    result = api.img2img([Image.fromarray(IMAGE)], prompt="a cat", batch_size=2, n_iter=2, **QUICK)
    assert result.info["all_seeds"] == [7, 8, 9, 10]
    expected = [native(service, seed=str(seed)) for seed in (7, 8, 9, 10)]
    assert all(np.array_equal(rgb(image), other) for image, other in zip(result.images, expected, strict=True))


def test_client_awaits_an_image(service: Service, api: webuiapi.WebUIApi) -> None:
    async def ask() -> Any:
        return await api.img2img([Image.fromarray(IMAGE)], prompt="a cat", use_async=True, **QUICK)

    assert np.array_equal(rgb(asyncio.run(ask()).image), native(service))


def test_client_with_a_password_is_let_in_where_none_is_asked_for(service: Service) -> None:
    api = webuiapi.WebUIApi(baseurl=f"{service.url}/sdapi/v1", username="me", password="secret")
    assert api.util_get_sampler_names() == ["DDIM", "DPM++ 2M", "Euler", "Euler a", "LCM"]
    assert api.util_get_scheduler_names() == ["automatic", "karras", "uniform"]


def mask_image(mode: str = "L") -> Image.Image:
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (16, 8, 48, 40))
    if mode == "L":
        return mask
    painted = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    painted.putalpha(mask)
    return painted


OUTSIDE = np.asarray(mask_image()) == 0


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_masked_client_image_keeps_the_rest(mode: str, service: Service, api: webuiapi.WebUIApi) -> None:
    options = {**QUICK, "inpaint_full_res": False, "inpainting_fill": 1}
    result = api.img2img([Image.fromarray(IMAGE)], prompt="a cat", mask_image=mask_image(mode), **options)
    files = {"image": png(IMAGE), "mask": file_of(mask_image(), "png")}
    expected = pixels_of(service.client.post("/v1/img2img", data=NATIVE, files=files).content)
    assert np.array_equal(rgb(result.image), expected)
    assert np.array_equal(rgb(result.image)[OUTSIDE], IMAGE[OUTSIDE])
    assert not np.array_equal(rgb(result.image), IMAGE)


def test_inverted_mask_keeps_the_inside(service: Service) -> None:
    fields = {"mask": b64(file_of(mask_image(), "png")), "inpainting_mask_invert": 1, "inpaint_full_res": False}
    [image] = images_of(post(service, **fields))
    assert np.array_equal(image[~OUTSIDE], IMAGE[~OUTSIDE])
    assert not np.array_equal(image[OUTSIDE], IMAGE[OUTSIDE])


def test_only_masked_works_on_that_part_and_puts_it_back(service: Service) -> None:
    fields = {"mask": b64(file_of(mask_image(), "png")), "inpainting_fill": 1, "width": 64, "height": 64}
    reply = post(service, inpaint_full_res=True, mask_blur=0, **fields)
    [image] = images_of(reply)
    assert image.shape == IMAGE.shape
    assert np.array_equal(image[OUTSIDE], IMAGE[OUTSIDE])
    part = Image.fromarray(IMAGE[8:40, 16:48]).resize((64, 64), Image.Resampling.LANCZOS)
    small = Image.fromarray(native(service, np.array(part))).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(image[8:40, 16:48], np.array(small))
    assert json.loads(reply.json()["info"])["width"] == 64


def test_filled_start_differs_from_the_image_itself(service: Service) -> None:
    fields = {"mask": b64(file_of(mask_image(), "png")), "inpaint_full_res": False}
    filled, original = (images_of(post(service, inpainting_fill=fill, **fields))[0] for fill in (0, 1))
    assert np.array_equal(filled[OUTSIDE], original[OUTSIDE])
    assert not np.array_equal(filled, original)


def test_model_is_picked_for_the_requests_that_name_none(service: Service, api: webuiapi.WebUIApi) -> None:
    titles = [model["title"] for model in api.get_sd_models()]
    assert titles == ["sd15.safetensors", "Second.safetensors"]
    assert api.util_get_current_model() == "sd15.safetensors"
    assert [lora["name"] for lora in api.get_loras()] == ["ink"]
    try:
        api.util_set_model("Second")
        assert api.util_get_current_model() == "Second.safetensors"
        assert api.get_loras() == []
        result = api.img2img([Image.fromarray(IMAGE)], prompt="a cat", **QUICK)
        assert result.info["sd_model_name"] == "Second"
        assert np.array_equal(rgb(result.image), native(service, model="Second"))
        named = api.img2img(
            [Image.fromarray(IMAGE)], prompt="a cat", override_settings={"sd_model_checkpoint": "sd15"}, **QUICK
        )
        assert np.array_equal(rgb(named.image), native(service))
    finally:
        api.util_set_model("sd15")


def test_whole_settings_are_taken_back_with_one_changed(service: Service) -> None:
    settings = service.client.get("/sdapi/v1/options").json()
    changed = settings | {"sd_model_checkpoint": "org/second", "some_setting_of_an_extension": 7}
    assert service.client.post("/sdapi/v1/options", json=changed).json() is None
    assert service.client.get("/sdapi/v1/options").json() == settings | {"sd_model_checkpoint": "Second.safetensors"}
    assert service.client.post("/sdapi/v1/options", json=settings).status_code == 200
    assert service.client.get("/sdapi/v1/options").json() == settings


@pytest.mark.parametrize(
    ("field", "value"), [("sd_model_checkpoint", "none"), ("sd_vae", "x.pt"), ("samples_format", "webp")]
)
def test_setting_that_cannot_be_is_refused_by_name(field: str, value: str, service: Service) -> None:
    reply = service.client.post("/sdapi/v1/options", json={field: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert field in reply.json()["detail"]


def test_adapter_of_the_prompt_is_switched_on(service: Service) -> None:
    reply = post(service, prompt="a cat <lora:ink:0.8>")
    [image] = images_of(reply)
    assert np.array_equal(image, native(service, loras="ink:0.8"))
    assert not np.array_equal(image, native(service))
    assert json.loads(reply.json()["info"])["prompt"] == "a cat <lora:ink:0.8>"


@pytest.mark.parametrize(("mode", "square"), [(0, (64, 64)), (1, (64, 64)), (2, (64, 64))])
def test_model_sees_the_image_resized_as_asked(mode: int, square: tuple[int, int], service: Service) -> None:
    [image] = images_of(post(service, resize_mode=mode, width=square[0], height=square[1]))
    source = Image.fromarray(IMAGE)
    if mode == 0:
        seen = np.array(source.resize(square, Image.Resampling.LANCZOS))
    elif mode == 1:
        seen = np.array(source.resize((85, 64), Image.Resampling.LANCZOS).crop((10, 0, 74, 64)))
    else:
        seen = np.pad(IMAGE, ((8, 8), (0, 0), (0, 0)), "edge")
    assert np.array_equal(image, native(service, seen))


def test_size_of_null_is_the_images_own(service: Service) -> None:
    [image] = images_of(post(service, width=None, height=None))
    assert np.array_equal(image, native(service))


@pytest.mark.parametrize(("samples_format", "format"), [("jpg", "JPEG"), ("WEBP", "WEBP"), ("png", "PNG")])
def test_images_come_in_the_format_that_was_asked_for(samples_format: str, format: str, service: Service) -> None:
    reply = post(service, override_settings={"samples_format": samples_format, "unheard_of": 1})
    assert Image.open(io.BytesIO(base64.b64decode(reply.json()["images"][0]))).format == format
    assert reply.json()["parameters"]["override_settings"]["samples_format"] == samples_format.lower()


def test_random_seed_is_reported_and_gives_the_image_again(service: Service) -> None:
    reply = post(service, seed=-1)
    seed = json.loads(reply.json()["info"])["seed"]
    assert np.array_equal(images_of(reply)[0], images_of(post(service, seed=seed))[0])


def test_reply_repeats_the_request_and_its_images_if_asked(service: Service) -> None:
    sent = b64(png(IMAGE))
    parameters = post(service, include_init_images=True, unheard_of=1).json()["parameters"]
    assert (parameters["init_images"], parameters["steps"], parameters["prompt"]) == ([sent], 8, "a cat")
    assert "unheard_of" not in parameters


def test_info_has_every_key_of_the_web_ui(service: Service) -> None:
    info = json.loads(post(service, negative_prompt="blurry").json()["info"])
    names = (
        "prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength "
        "width height sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name "
        "sd_model_hash sd_vae_name sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength "
        "extra_generation_params index_of_first_image infotexts styles job_timestamp clip_skip "
        "is_using_inpainting_conditioning version fallback_for"  # the last is our own
    )
    assert set(info) == set(names.split())
    assert (info["all_negative_prompts"], info["denoising_strength"], info["width"]) == (["blurry"], 0.5, 64)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, "alwayson_scripts"),
        ({"refiner_checkpoint": "xl"}, "refiner_checkpoint"),
        ({"subseed_strength": 0.1}, "subseed_strength"),
        ({"seed_resize_from_w": 512}, "seed_resize_from_w"),
        ({"seed_resize_from_h": 512}, "seed_resize_from_h"),
        ({"eta": 0.5}, "eta"),
        ({"s_churn": 1}, "s_churn"),
        ({"s_noise": 1.1}, "s_noise"),
        ({"s_min_uncond": 1}, "s_min_uncond"),
        ({"initial_noise_multiplier": 1.1}, "initial_noise_multiplier"),
        ({"image_cfg_scale": 2}, "image_cfg_scale"),
        ({"distilled_cfg_scale": 2}, "distilled_cfg_scale"),
        ({"resize_mode": 3}, "resize_mode"),
        ({"inpainting_fill": 2}, "inpainting_fill"),
        ({"inpainting_fill": 3}, "inpainting_fill"),
        ({"styles": ["anime"]}, "styles"),
        ({"save_images": True}, "save_images"),
        ({"send_images": False}, "send_images"),
        ({"enable_hr": True}, "enable_hr"),
        ({"latent_mask": "x"}, "latent_mask"),
        ({"disable_extra_networks": True}, "disable_extra_networks"),
        ({"infotext": "Steps: 20"}, "infotext"),
        ({"override_settings_restore_afterwards": False}, "override_settings_restore_afterwards"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "override_settings.CLIP_stop_at_last_layers"),
        ({"override_settings": {"sd_vae": "vae.pt"}}, "override_settings.sd_vae"),
        ({"override_settings": {"img2img_fix_steps": True}}, "override_settings.img2img_fix_steps"),
        ({"override_settings": {"samples_format": "avif"}}, "override_settings.samples_format"),
        ({"override_settings": {"sd_model_checkpoint": "no"}}, "override_settings.sd_model_checkpoint"),
        ({"sampler_name": "Heun"}, "sampler_name"),
        ({"sampler_name": "Euler", "scheduler": "Karras"}, "scheduler"),
        ({"batch_size": 2, "n_iter": 3}, "batch_size"),
        ({"width": 257}, "width"),
        ({"height": 8}, "height"),
        ({"steps": 151}, "steps"),
        ({"steps": 0}, "steps"),
        ({"cfg_scale": 51}, "cfg_scale"),
        ({"denoising_strength": 1.1}, "denoising_strength"),
        ({"seed": 2**63 - 1, "batch_size": 2}, "seed"),
        ({"seed": -2}, "seed"),
        ({"mask_blur_x": 1}, "mask_blur_y"),
        ({"mask_blur": 65}, "mask_blur"),
        ({"mask": "http://example.com/a.png"}, "mask"),
        ({"prompt": "<lora:oil:1>"}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"init_images": ["x", "y"]}, "init_images"),
        ({"init_images": ["https://example.com/a.png"]}, "init_images"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(fields: dict[str, Any], param: str, service: Service) -> None:
    if "mask_blur_x" in fields:
        fields = fields | {"mask": b64(file_of(mask_image(), "png"))}
    reply = post(service, **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    assert param.rpartition(".")[2] in reply.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({"init_images": None}, 404, "Init image not found"),
        ({"init_images": []}, 404, "Init image not found"),
        ({"sampler_name": "Heun"}, 400, "Sampler not found"),
        ({"init_images": ["not base64!"]}, 415, "init_images: the text is not base64"),
        ({"init_images": [b64(b"no image")]}, 415, "init_images: the file is not an image"),
        ({"mask": b64(b"no image")}, 415, "mask: the file is not an image"),
    ],
)
def test_errors_have_the_web_uis_status_and_detail(
    fields: dict[str, Any], status: int, detail: str, service: Service
) -> None:
    reply = post(service, **fields)
    assert (reply.status_code, reply.json()["detail"][: len(detail)]) == (status, detail)
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "detail"), [(b"{", "the body is not JSON"), (b"[]", "the body is no JSON object"), (b"", "the body: ")]
)
def test_body_that_is_no_json_object_is_refused(body: bytes, detail: str, service: Service) -> None:
    reply = service.client.post("/sdapi/v1/img2img", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, set(reply.json())) == (400, {"detail", "error"})
    assert reply.json()["detail"].startswith(detail)


def test_prompt_with_half_a_character_gets_an_image(service: Service) -> None:
    options = {"init_images": [b64(png(IMAGE))], "script_args": ["\ud800"], "prompt": "\ud800", **QUICK}
    body = json.dumps(options).encode()
    reply = service.client.post("/sdapi/v1/img2img", content=body, headers={"content-type": "application/json"})
    assert len(images_of(reply)) == 1


@pytest.mark.parametrize("route", ["txt2img", "extra-single-image", "interrogate", "unload-checkpoint"])
def test_what_is_not_served_says_so(route: str, service: Service) -> None:
    reply = service.client.post(f"/sdapi/v1/{route}", json={"prompt": "a cat"})
    assert reply.status_code == 404
    assert reply.json()["detail"].startswith(f"{route}: ")


def test_lists_that_clients_read_at_their_start_are_there(service: Service, api: webuiapi.WebUIApi) -> None:
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["None"]
    empty = (api.get_latent_upscale_modes, api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models)
    assert [ask() for ask in (*empty, api.get_prompt_styles, api.get_sd_vae)] == [[]] * 6
    assert api.refresh_checkpoints() is None
    assert api.get_cmd_flags() == {}
    assert set(api.get_memory()) == {"ram", "cuda"}


def test_settings_are_read_back_from_an_image(service: Service, api: webuiapi.WebUIApi) -> None:
    result = api.img2img([Image.fromarray(IMAGE)], prompt="a cat", negative_prompt="blurry", **QUICK)
    assert api.png_info(result.image).info == result.image.info["parameters"]
    reply = service.client.post("/sdapi/v1/png-info", json={"image": result.json["images"][0]}).json()
    expected = {"Prompt": "a cat", "Negative prompt": "blurry", "Steps": "8", "Seed": "7", "Sampler": "DPM++ 2M"}
    expected |= {"Schedule type": "Karras", "Size-1": "64"}
    assert expected.items() <= reply["parameters"].items()
    plain = service.client.post("/sdapi/v1/png-info", json={"image": b64(png(IMAGE))}).json()
    assert plain == {"info": "", "items": {}, "parameters": {}}


class Running:
    """A long request in a thread of its own; its reply is there once `join` returns."""

    def __init__(self, service: Service, **fields: Any) -> None:
        self.reply: httpx.Response | None = None
        self._thread = threading.Thread(target=self._post, args=(service, fields))
        self._thread.start()

    def _post(self, service: Service, fields: dict[str, Any]) -> None:
        self.reply = post(service, **LONG | fields)

    def join(self) -> httpx.Response:
        self._thread.join(120)
        assert self.reply is not None
        return self.reply


def test_idle_server_is_ready(api: webuiapi.WebUIApi) -> None:
    eventually(lambda: api.get_progress()["state"]["job_count"] == 0)
    assert api.get_progress()["progress"] == 0.0
    api.util_wait_for_ready(check_interval=0.1)


def test_progress_and_preview_come_while_it_runs(service: Service, api: webuiapi.WebUIApi) -> None:
    running = Running(service, force_task_id="mine", steps=50)
    progress = eventually(lambda: (seen := api.get_progress())["current_image"] and seen["progress"] > 0.1 and seen)
    assert 0.1 < progress["progress"] < 1
    assert (progress["state"]["job_count"], progress["state"]["sampling_steps"]) == (1, 50)
    assert progress["current_task"] == "mine"
    assert Image.open(io.BytesIO(base64.b64decode(progress["current_image"]))).size == (32, 32)
    mine = service.client.post("/internal/progress", json={"id_task": "mine"}).json()
    assert (mine["active"], mine["queued"], mine["completed"]) == (True, False, False)
    assert mine["live_preview"].startswith("data:image/png;base64,")
    assert service.client.get("/internal/pending-tasks").json() == {"size": 0, "tasks": []}
    assert len(images_of(running.join())) == 1
    eventually(lambda: service.client.post("/internal/progress", json={"id_task": "mine"}).json()["completed"])


@pytest.mark.parametrize("stop", ["interrupt", "skip"])
def test_stopped_request_answers_without_its_image(stop: str, service: Service, api: webuiapi.WebUIApi) -> None:
    aborted = service.stats("sd15")["aborted"]
    running = Running(service)
    eventually(lambda: api.get_progress()["state"]["sampling_step"] > 5)
    assert getattr(api, stop)() == ({} if stop == "interrupt" else None)
    reply = running.join()
    assert images_of(reply) == []
    assert json.loads(reply.json()["info"])["all_seeds"] == []
    eventually(lambda: service.stats("sd15")["aborted"] == aborted + 1)
    eventually(lambda: api.get_progress()["state"]["job_count"] == 0)
    assert len(images_of(post(service))) == 1


def test_client_who_goes_away_leaves_no_task(service: Service, api: webuiapi.WebUIApi) -> None:
    body = {"init_images": [b64(png(IMAGE))], **LONG}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/sdapi/v1/img2img", json=body, timeout=0.5)
    eventually(lambda: service.stats("sd15")["running"] == 0)
    eventually(lambda: api.get_progress()["state"]["job_count"] == 0)
