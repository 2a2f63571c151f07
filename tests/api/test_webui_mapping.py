"""The web UI's words in ours: pure functions."""

from __future__ import annotations

import pytest

from deployments.api.webui.mapping import (
    current_model,
    find_model,
    find_sampler,
    samplers_of,
    split_loras,
    strength_for,
    title_of,
    to_options,
)
from deployments.api.webui.route import WEBUI_FIELDS, with_webui_field_names
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import AppConfig, Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Img2ImgRequest, Sampler
from deployments.images.metadata import SAMPLER_NAMES
from deployments.schemas import Img2ImgOptions
from tests.support.reference import smooth_image

SOURCE = smooth_image(5, 64, 48)
LIMITS = Limits()
CONFIG = AppConfig(
    models={
        "sd15": {"checkpoint": "a", "revision": "0123456789abcdef", "aliases": ["org/Stable"]},
        "other": {"checkpoint": "b"},
    }
)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 49, 50, 100, 149, 150, 999, 1000])
def test_as_many_steps_run_as_the_web_ui_runs(steps: int) -> None:
    for hundredth in range(0, 1001):
        requested = hundredth / 1000
        strength = strength_for(requested, steps)
        request = Img2ImgRequest("", SOURCE, "", strength=strength, num_inference_steps=steps)
        assert 0 < strength <= 1
        assert request.num_denoise_steps == int(min(requested, 0.999) * steps) + 1, (requested, steps)


@pytest.mark.parametrize(
    ("name", "scheduler", "sampler"),
    [
        ("Euler a", "automatic", "euler_ancestral"),
        ("euler A", "", "euler_ancestral"),
        ("k_euler_a", "Uniform", "euler_ancestral"),
        ("k_euler_ancestral", "Automatic", "euler_ancestral"),
        ("Euler", "automatic", "euler"),
        ("k_euler", "automatic", "euler"),
        ("DPM++ 2M", "automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", "uniform", "dpmpp_2m"),
        ("DPM++ 2M Karras", "automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "uniform", "dpmpp_2m_karras"),
        ("k_dpmpp_2m", "uniform", "dpmpp_2m"),
        ("DDIM", "automatic", "ddim"),
        ("LCM", "automatic", "lcm"),
    ],
)
def test_sampler_goes_by_the_web_uis_names(name: str, scheduler: str, sampler: Sampler) -> None:
    assert find_sampler(name, scheduler) == sampler


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_is_found_by_what_images_call_it(sampler: Sampler) -> None:
    assert find_sampler(*SAMPLER_NAMES[sampler]) == sampler
    assert sampler in samplers_of(SAMPLER_NAMES[sampler][0]).values()


@pytest.mark.parametrize(
    ("name", "scheduler", "param"),
    [
        ("Heun", "automatic", "sampler_name"),
        ("", "automatic", "sampler_name"),
        ("DPM++ 2M SDE Karras", "automatic", "sampler_name"),
        ("Euler", "karras", "scheduler"),
        ("Euler Karras", "automatic", "scheduler"),
        ("DPM++ 2M", "exponential", "scheduler"),
    ],
)
def test_sampler_there_is_not_is_refused_by_name(name: str, scheduler: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_sampler(name, scheduler)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "plain", "loras"),
    [
        ("a cat", "a cat", None),
        (" a <b> cat, <x:1> ", " a <b> cat, <x:1> ", None),
        ("a cat <lora:ink:0.8>", "a cat", "ink:0.8"),
        ("<lora:ink> a <lora:oil paint:-1.5>cat", "a cat", "ink:1,oil paint:-1.5"),
    ],
)
def test_adapters_are_taken_out_of_the_prompt(prompt: str, plain: str, loras: str | None) -> None:
    assert split_loras(prompt) == (plain, loras)


@pytest.mark.parametrize(
    "tag",
    ["<lora:ink:x>", "<lora:ink:1:2>", "<lora::1>", "<lora:a,b:1>", "<lora:ink:9>", "<hypernet:ink:1>", "<lyco:i>"],
)
def test_network_that_cannot_be_served_is_refused(tag: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        split_loras(f"a cat {tag}")
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("sd15", "sd15"),
        ("SD15", "sd15"),
        ("sd15.safetensors", "sd15"),
        ("sd15.safetensors [0123456789]", "sd15"),
        ("org/stable", "sd15"),
        ("other.safetensors", "other"),
    ],
)
def test_model_goes_by_title_name_id_and_alias(name: str, model: str) -> None:
    assert find_model(name, CONFIG, "sd_model_checkpoint") == model


def test_title_names_the_model_and_the_start_of_its_revision() -> None:
    titles = [title_of(model_id, model) for model_id, model in CONFIG.models.items()]
    assert titles == ["sd15.safetensors [0123456789]", "other.safetensors"]
    assert [find_model(title, CONFIG, "") for title in titles] == list(CONFIG.models)


def test_model_there_is_not_is_refused_and_a_pick_of_one_is_forgotten() -> None:
    with pytest.raises(InvalidRequest, match="models: sd15, other") as caught:
        find_model("sd21", CONFIG, "override_settings.sd_model_checkpoint")
    assert caught.value.param == "override_settings.sd_model_checkpoint"
    assert [current_model(picked, CONFIG) for picked in (None, "other", "gone")] == ["sd15", "other", "sd15"]


def test_options_of_an_empty_request_are_the_contracts_defaults() -> None:
    assert to_options(Img2ImgBody(), "sd15", LIMITS) == Img2ImgOptions(
        prompt="",
        negative_prompt="",
        model="sd15",
        strength=strength_for(0.75, 50),
        guidance_scale=7.0,
        num_inference_steps=50,
        sampler="euler",
        max_side=512,
    )


def test_null_is_the_default_but_of_the_size_it_is_the_images_own() -> None:
    body = Img2ImgBody.model_validate(dict.fromkeys(Img2ImgBody.model_fields))
    assert body == Img2ImgBody(width=None, height=None)
    assert to_options(body, None, LIMITS).max_side == LIMITS.max_side


def test_half_a_character_is_replaced() -> None:
    assert Img2ImgBody(prompt="a \ud800 cät").prompt == "a ? cät"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"width": 2049}, "width"),
        ({"height": 15}, "height"),
        ({"batch_size": 4, "n_iter": 3}, "batch_size"),
    ],
)
def test_what_pydantic_does_not_see_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        to_options(Img2ImgBody.model_validate(fields), None, LIMITS)
    assert caught.value.param == param


@pytest.mark.parametrize("ours", WEBUI_FIELDS)
def test_errors_name_the_web_uis_field(ours: str) -> None:
    error = with_webui_field_names(InvalidRequest(f"{ours} must be at most 8, not 9", ours))
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.message) == (WEBUI_FIELDS[ours], f"{WEBUI_FIELDS[ours]} must be at most 8, not 9")
