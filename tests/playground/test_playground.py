"""The playground's files, its form, and what it takes in and says, in a real browser."""

from __future__ import annotations

import base64
import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import pytest

from deployments.images.codec import encode_image
from deployments.images.metadata import SAMPLER_NAMES, format_parameters
from deployments.schemas import Settings
from tests.support.browser import (
    DROP,
    PHOTO,
    TRICKY,
    axe,
    choose,
    drop,
    expect,
    fill,
    generate,
    values,
    visit,
)
from tests.support.images import exif, file_of
from tests.support.service import Service, pixels_of

pytestmark = [pytest.mark.chromium, pytest.mark.service, pytest.mark.xdist_group("playground")]


# What is served


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/playground/style.css", "text/css"),
        ("/playground/theme.css", "text/css"),
        ("/playground/app.js", "text/javascript"),
        ("/playground/icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_type_and_a_strict_policy_and_are_asked_about_again(
    path: str, kind: str, service: Service
) -> None:
    reply = service.client.get(path)
    assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, kind)
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert "unsafe" not in reply.headers["content-security-policy"]
    again = service.client.get(path, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_page_is_no_part_of_the_api(service: Service) -> None:
    assert {path for path in service.client.get("/openapi.json").json()["paths"] if "playground" in path} == set()


@pytest.mark.parametrize(
    "path",
    [
        "/playground/../app.py",
        "/playground/%2e%2e/app.py",
        "/playground/..%2fapp.py",
        f"/playground/{Path('deployments/app.py').resolve()}",
        f"/{Path('deployments/app.py').resolve()}",
        "/playground/",
        "/playground/missing.js",
    ],
)
def test_only_the_pages_own_files_are_served(path: str, service: Service) -> None:
    """`http.client` sends the path as it is; httpx would resolve the dots."""
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=30)
    connection.putrequest("GET", path)
    connection.endheaders()
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]["code"]) == (404, "not_found")
    connection.close()


# The form


def test_form_starts_at_the_models_defaults_and_keeps_what_was_chosen(page: Any) -> None:
    names = ("model", "strength", "guidance_scale", "num_inference_steps", "max_side", "sampler", "prompt")
    assert values(page, *names) == ["fine", "0.6", "2.5", "10", "128", "dpmpp_2m", "in the style of picasso"]
    fill(page, guidance_scale=4)
    page.locator("#model").select_option("bold")
    assert values(page, *names)[:4] == ["bold", "0.5", "4", "10"]
    assert page.locator("#sampler option").count() == len(SAMPLER_NAMES)
    expect(page.locator("#loras")).to_be_hidden()


def test_model_that_is_not_ready_says_why(page: Any) -> None:
    page.locator("#model").select_option(label="waiting (not ready)")
    expect(page.locator("#model-note")).to_contain_text("Not ready: ")


def test_slider_and_number_move_together(page: Any) -> None:
    slider = page.get_by_label("Strength, slider")
    slider.focus()
    slider.press("ArrowRight")
    assert values(page, "strength") == ["0.61"]
    fill(page, strength=0.3)
    assert slider.input_value() == "0.3"
    expect(page.locator("#run-note")).to_have_text("At this strength 3 of 10 steps are run.")


def test_dice_roll_a_seed(page: Any) -> None:
    page.locator("#dice").click()
    first = values(page, "seed")
    page.locator("#dice").click()
    assert 0 <= int(*first) < 2**32
    assert values(page, "seed") != first


def test_link_restores_the_settings(page: Any) -> None:
    page.locator("#model").select_option("bold")
    page.locator("#sampler").select_option("euler")
    fill(page, prompt=TRICKY, strength=0.45, seed=2**63 - 1, num_images=2)
    page.locator("#copy button").first.click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    for go in (page.reload, lambda: page.goto("about:blank")):
        go()
        visit(page, link)
        names = ("model", "sampler", "prompt", "strength", "seed", "num_images")
        assert values(page, *names) == ["bold", "euler", TRICKY, "0.45", str(2**63 - 1), "2"]


# Images and their settings


def test_samplers_have_the_names_that_images_carry(page: Any) -> None:
    names = page.evaluate("async () => (await import('/playground/parameters.js')).SAMPLERS")
    assert {sampler: tuple(pair) for sampler, pair in names.items()} == SAMPLER_NAMES


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["a cat, sitting", "née", TRICKY])
def test_dropped_output_restores_its_settings(
    file_format: Literal["png", "jpeg", "webp"], prompt: str, page: Any
) -> None:
    settings = Settings(
        model="fine",
        prompt=prompt,
        negative_prompt="blurry, grey",
        strength=0.35,
        guidance_scale=7.25,
        num_inference_steps=33,
        seed=2**60 + 1,
        sampler="dpmpp_2m_karras",
        max_side=96,
        loras="ink:0.75",
    )
    text = format_parameters(settings, (72, 96))
    drop(page, encode_image(pixels_of(PHOTO), file_format, parameters=text), f"result.{file_format}")
    expect(page.locator("#toast")).to_contain_text("The settings in this image are in the form.")
    expected = settings.model_dump(exclude={"loras"})
    assert values(page, *expected) == [str(value) for value in expected.values()]
    assert page.locator("[data-lora=ink]").input_value() == "0.75"
    page.get_by_role("button", name="Undo").click()
    assert values(page, "prompt", "seed") == ["in the style of picasso", ""]


def test_dropped_image_of_another_tool_restores_its_settings(page: Any) -> None:
    text = "a fox\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 96x64"
    comment = b"UNICODE\0" + f'{text}, Note: "one\ntwo", Version: v1.5'.encode("utf-16-le")
    drop(page, file_of(pixels_of(PHOTO), "jpeg", exif=exif(user_comment=comment)), "fox.jpeg")
    expect(page.locator("#toast")).to_contain_text("The settings in this image are in the form.")
    names = ("prompt", "negative_prompt", "num_inference_steps", "sampler", "guidance_scale", "seed", "max_side")
    assert values(page, *names) == ["a fox", "blur", "20", "euler_ancestral", "7", "5", "96"]


def test_pasted_image_becomes_the_input(page: Any) -> None:
    transfer = page.evaluate_handle(DROP, [base64.b64encode(PHOTO).decode(), "image.png"])
    page.evaluate("(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData}))", transfer)
    expect(page.locator("#caption")).to_contain_text("image.png, 192 × 256")


def test_file_that_is_no_image_is_refused(page: Any) -> None:
    drop(page, b"no image", "notes.png")
    expect(page.get_by_role("alert")).to_contain_text("This browser can show no image in notes.png.")


# What goes wrong


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strength", 2, "less than or equal to 1 (a number from 0 to 1)"),
        ("seed", "x", "Input should be a valid integer"),
        ("num_images", 99, "at most 8"),
    ],
)
def test_bad_field_is_marked_with_the_servers_message(name: str, value: object, message: str, page: Any) -> None:
    choose(page)
    fill(page, **{name: value})
    page.locator("#generate").click()
    expect(page.locator(f"#{name}-error")).to_contain_text(message)
    control = page.locator(f"#{name}")
    expect(control).to_be_focused()
    expect(control).to_have_attribute("aria-describedby", f"{name}-error")
    fill(page, **{name: 1})
    expect(page.locator(".error")).to_have_count(0)


def test_run_without_an_image_asks_for_one(page: Any) -> None:
    page.locator("#generate").click()
    expect(page.locator("#image-error")).to_have_text("Choose an image first.")


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_has_no_barriers_and_fits(scheme: str, width: int, page: Any) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})

    def look() -> None:
        found = axe.Axe().run(page).response["violations"]
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in bad], indent=1)
        assert page.evaluate("document.documentElement.scrollWidth") == width

    page.locator("#generate").click()
    look()
    choose(page, name=60 * "long" + ".png")
    page.locator("#brush").click()
    fill(page, seed="x")
    page.locator("#generate").click()
    page.locator("#seed-error").wait_for()
    look()
    fill(page, seed=1, num_images=2)
    generate(page)
    look()
