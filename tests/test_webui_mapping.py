"""The web UI's words in ours, its ways of resizing and inpainting, and what it is told: pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deployments.api.webui_canvas import (
    CROP,
    FILL,
    STRETCH,
    Box,
    Canvas,
    Size,
    fill,
    mask_mode_of,
    part_around,
    place,
    take_out,
)
from deployments.api.webui_mapping import (
    current_model,
    find_model,
    find_sampler,
    samplers_of,
    split_loras,
    strength_for,
    title_of,
    to_options,
)
from deployments.api.webui_progress import overall_progress, task_progress
from deployments.api.webui_route import FIELDS, in_webui_words
from deployments.api.webui_schemas import Img2ImgBody
from deployments.config import AppConfig, Limits
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Img2ImgRequest, Sampler
from deployments.images import SourceImage
from deployments.parameters import SAMPLER_NAMES
from deployments.schemas import Img2ImgOptions
from deployments.webui_state import Stop, TaskReport, TaskState
from tests.pictures import file_of, gradient
from tests.reference import picture

SOURCE = picture(5, 64, 48)
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
        asked = hundredth / 1000
        strength = strength_for(asked, steps)
        request = Img2ImgRequest("", SOURCE, "", strength=strength, num_inference_steps=steps)
        assert 0 < strength <= 1
        assert request.num_denoise_steps == int(min(asked, 0.999) * steps) + 1, (asked, steps)


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
def test_every_sampler_is_found_by_what_pictures_call_it(sampler: Sampler) -> None:
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
        ("<lora:ink> a <lora:oil paint:-1.5>cat", "a cat", "ink,oil paint:-1.5"),
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


def test_null_is_the_default_but_of_the_size_it_is_the_pictures_own() -> None:
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
        ({"seed": -2}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"sampler_name": "Euler a", "eta": 0}, "eta"),
    ],
)
def test_what_pydantic_does_not_see_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        to_options(Img2ImgBody.model_validate(fields), None, LIMITS)
    assert caught.value.param == param


@pytest.mark.parametrize("ours", FIELDS)
def test_errors_name_the_web_uis_field(ours: str) -> None:
    error = in_webui_words(InvalidRequest(f"{ours} must be at most 8, not 9", ours))
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.message) == (FIELDS[ours], f"{FIELDS[ours]} must be at most 8, not 9")


def lanczos(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def test_stretched_picture_is_pillows() -> None:
    assert np.array_equal(place(SOURCE, (40, 40), STRETCH), np.array(lanczos(Image.fromarray(SOURCE), (40, 40))))


@pytest.mark.parametrize(("size", "scaled"), [((40, 40), (53, 40)), ((96, 48), (96, 72)), ((32, 24), (32, 24))])
def test_cropped_picture_covers_the_size_around_the_centre(size: Size, scaled: Size) -> None:
    covering = lanczos(Image.fromarray(SOURCE), scaled)
    left, top = scaled[0] // 2 - size[0] // 2, scaled[1] // 2 - size[1] // 2
    expected = covering.crop((left, top, left + size[0], top + size[1]))
    assert np.array_equal(place(SOURCE, size, CROP), np.array(expected))


@pytest.mark.parametrize(("size", "scaled"), [((40, 40), (40, 30)), ((96, 48), (64, 48)), ((32, 24), (32, 24))])
def test_filled_picture_lies_inside_between_its_own_edges(size: Size, scaled: Size) -> None:
    placed = place(SOURCE, size, FILL)
    assert (placed.shape[1], placed.shape[0]) == size
    left, top = size[0] // 2 - scaled[0] // 2, size[1] // 2 - scaled[1] // 2
    inside = placed[top : top + scaled[1], left : left + scaled[0]]
    assert np.array_equal(inside, np.array(lanczos(Image.fromarray(SOURCE), scaled)))
    right, bottom = size[0] - left - scaled[0], size[1] - top - scaled[1]
    assert np.array_equal(placed, np.pad(inside, ((top, bottom), (left, right), (0, 0)), "edge"))


@pytest.mark.parametrize("size", [(64, 64), (100, 48), (80, 96)])
def test_part_comes_back_from_where_it_was_put(size: Size) -> None:
    smooth = gradient(64, 48)
    back = take_out(place(smooth, size, FILL), (64, 48))
    assert back.shape == smooth.shape
    assert np.abs(back.astype(int) - smooth).max() <= 12
    assert np.abs(back.astype(int) - smooth).mean() < 1.5


@pytest.mark.parametrize(
    ("padding", "size", "part"),
    [
        (0, (64, 64), (20, 10, 40, 30)),
        (4, (64, 64), (16, 6, 44, 34)),
        (0, (128, 64), (10, 10, 50, 30)),
        (0, (64, 128), (20, 0, 40, 40)),
        (0, (640, 64), (0, 10, 64, 30)),
        (100, (64, 64), (0, 0, 64, 48)),
    ],
)
def test_masked_part_grows_to_the_shape_of_the_size_within_the_picture(padding: int, size: Size, part: Box) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:40] = 255
    assert part_around(mask, padding, size) == part


def test_masked_part_is_filled_with_what_is_around_it() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 0, 0), (0, 0, 200)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 4:28] = 255
    pixels[mask == 255] = (0, 255, 0)
    filled = fill(pixels, mask)
    assert np.array_equal(filled[mask == 0], pixels[mask == 0])
    assert (filled[mask == 255][:, 1] == 0).all()
    assert (filled[16:48, 4:12, 0] > 100).all()


def masked(**fields: object) -> tuple[Canvas, np.ndarray]:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:40, 16:48], mask[20:24, 20:24] = 255, 100
    return Canvas(Img2ImgBody.model_validate({"width": 64, "height": 48} | fields), "opaque"), mask


def source(alpha: np.ndarray | None = None) -> SourceImage:
    return SourceImage(SOURCE, alpha, None, "png")


@pytest.mark.parametrize(
    ("fields", "inside", "outside", "grey"),
    [
        ({}, 255, 0, 0),
        ({"mask_round": False}, 255, 0, 100),
        ({"inpainting_mask_invert": 1, "mask_round": False}, 0, 255, 155),
    ],
)
def test_mask_is_rounded_and_inverted_as_asked(fields: dict[str, object], inside: int, outside: int, grey: int) -> None:
    canvas, mask = masked(inpaint_full_res=False, **fields)
    _, shaped = canvas.reshape(source(), mask)
    assert shaped is not None
    assert (shaped[10, 18], shaped[0, 0], shaped[22, 22]) == (inside, outside, grey)


def test_mask_that_leaves_nothing_to_repaint_is_refused() -> None:
    canvas, mask = masked()
    with pytest.raises(InvalidRequest) as caught:
        canvas.reshape(source(), np.zeros_like(mask))
    assert caught.value.param == "mask"


def test_only_the_masked_part_goes_to_the_model_in_the_whole_size() -> None:
    canvas, mask = masked(width=64, height=64, inpaint_full_res=True)
    shaped, shaped_mask = canvas.reshape(source(), mask)
    assert np.array_equal(shaped.pixels, place(SOURCE[8:40, 16:48], (64, 64), STRETCH))
    assert shaped_mask is not None
    assert shaped_mask.shape == (64, 64)


def test_transparent_picture_lies_on_white() -> None:
    alpha = np.full((48, 64), 51, np.uint8)
    shaped, _ = Canvas(Img2ImgBody(width=None, height=None), "white").reshape(source(alpha), None)
    assert shaped.alpha is None
    assert np.array_equal(shaped.pixels, np.rint(SOURCE * 0.2 + 255 * 0.8).astype(np.uint8))


def test_mask_goes_by_what_is_opaque_only_where_anything_is_transparent() -> None:
    grey = Image.fromarray(gradient(16, 16)).convert("L")
    opaque, painted = grey.convert("RGBA"), grey.convert("RGBA")
    painted.putalpha(grey)
    modes = [mask_mode_of(file_of(mask, "png"), LIMITS) for mask in (grey, opaque, painted)]
    assert modes == ["white", "white", "opaque"]


def task(name: str, *, place: int = 0, step: int = 4, preview: bool = True, stop: Stop | None = None) -> TaskState:
    shown = SOURCE if preview else None
    return TaskState(TaskReport(name, 2, 1, place, step, 16, shown), 10.0, stop)


def test_idle_progress_is_what_clients_wait_for() -> None:
    told = overall_progress([], with_image=True)
    state = told.pop("state")
    assert told == {
        "progress": 0.0,
        "eta_relative": 0.0,
        "current_image": None,
        "textinfo": None,
        "current_task": None,
    }
    assert state["job_count"] == state["job_no"] == state["sampling_step"] == state["sampling_steps"] == 0
    assert (state["skipped"], state["interrupted"], state["stopping_generation"]) == (False, False, False)


def test_progress_is_that_of_all_tasks_and_names_the_first_that_runs() -> None:
    told = overall_progress([task("a", place=2, step=0, preview=False), task("b", stop="skipped")], with_image=True)
    assert (told["progress"], told["eta_relative"]) == (4 / 32, 70.0)
    assert (told["state"]["job_count"], told["state"]["job_no"]) == (4, 2)
    assert (told["state"]["sampling_step"], told["state"]["sampling_steps"]) == (2, 8)
    assert (told["state"]["skipped"], told["state"]["interrupted"]) == (True, False)
    assert (told["current_task"], told["state"]["job"]) == ("b", "b")
    assert told["current_image"]
    assert overall_progress([task("b")], with_image=False)["current_image"] is None


def test_progress_of_a_task_says_where_it_is() -> None:
    tasks = [task("runs"), task("next", place=1), task("last", place=2)]
    running = task_progress("runs", tasks, completed=False, seen_preview=-1)
    assert (running["active"], running["queued"], running["progress"], running["eta"]) == (True, False, 0.25, 30.0)
    assert running["live_preview"].startswith("data:image/png;base64,")
    again = task_progress("runs", tasks, completed=False, seen_preview=running["id_live_preview"])
    assert (again["live_preview"], again["id_live_preview"]) == (None, running["id_live_preview"])
    queued = task_progress("last", tasks, completed=False, seen_preview=-1)
    assert (queued["active"], queued["queued"], queued["textinfo"]) == (False, True, "In queue: 2/2")
    gone = task_progress("gone", tasks, completed=True, seen_preview=-1)
    assert (gone["active"], gone["queued"], gone["completed"]) == (False, False, True)
