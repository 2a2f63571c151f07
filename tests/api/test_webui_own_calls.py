"""The calls of img2img and of lists that AUTOMATIC1111's own API tests make get an answer."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

TEXT = base64.b64encode(png(smooth_image(3, 64, 64))).decode()
MASK = np.zeros((64, 64, 3), np.uint8)
MASK[16:48, 16:48] = 255
# Every field at the value that its tests send.
SIMPLE: dict[str, Any] = {
    "batch_size": 1,
    "cfg_scale": 7,
    "denoising_strength": 0.75,
    "eta": 0,
    "height": 64,
    "include_init_images": False,
    "init_images": [TEXT],
    "inpaint_full_res": False,
    "inpaint_full_res_padding": 0,
    "inpainting_fill": 0,
    "inpainting_mask_invert": False,
    "mask": None,
    "mask_blur": 4,
    "n_iter": 1,
    "negative_prompt": "",
    "override_settings": {},
    "prompt": "example prompt",
    "resize_mode": 0,
    "restore_faces": False,
    "s_churn": 0,
    "s_noise": 1,
    "s_tmax": 0,
    "s_tmin": 0,
    "sampler_index": "Euler a",
    "seed": -1,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "steps": 3,
    "styles": [],
    "subseed": -1,
    "subseed_strength": 0,
    "tiling": False,
    "width": 64,
}


@pytest.fixture(scope="module")
def served() -> Api:
    return Api()


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("mask", [None, base64.b64encode(png(MASK)).decode()])
async def test_simple_request_makes_its_image(mask: str | None, invert: bool, served: Api) -> None:
    body = SIMPLE | {"mask": mask, "inpainting_mask_invert": invert}
    reply = await served.client.post("/sdapi/v1/img2img", json=body)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["images"]) == 1


async def test_euler_a_without_noise_is_euler(served: Api) -> None:
    await served.client.post("/sdapi/v1/img2img", json=SIMPLE)
    assert served.models["a"].requests[-1].sampler == "euler"
    await served.client.post("/sdapi/v1/img2img", json=SIMPLE | {"eta": 1})
    assert served.models["a"].requests[-1].sampler == "euler_ancestral"


async def test_png_info_reads_the_image(served: Api) -> None:
    assert (await served.client.post("/sdapi/v1/png-info", json={"image": TEXT})).status_code == 200


async def test_option_of_the_front_end_is_written_and_read_back() -> None:
    api = Api()
    for value in (False, True):
        assert (await api.client.post("/sdapi/v1/options", json={"send_seed": value})).status_code == 200
        assert (await api.client.get("/sdapi/v1/options")).json()["send_seed"] is value
