"""The playground in a real browser, against the real service with the embedded checkpoints."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from deployments.images import encode_image, read_parameters
from deployments.parameters import SAMPLER_NAMES, format_parameters, parse_parameters
from deployments.schemas import Settings
from tests.loras import build_lora
from tests.pictures import file_of
from tests.service import Service, eventually, pixels_of, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
expect = sync_api.expect

pytestmark = [pytest.mark.chromium, pytest.mark.service]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHOTO = file_of(Image.open("data/input_images/astronaut.jpg").resize((192, 256)), "png")
DEFAULTS = {"max_side": 128, "strength": 0.6, "guidance_scale": 2.5, "num_inference_steps": 10}
PATIENCE_MS = 60_000
TRICKY = 'a "quoted", cat: 🏰\nNegative prompt: é <b>'
# A request that the server refuses is an error to the console, too; that it is shown is tested.
REFUSAL = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
DROP = """([data, name]) => {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: `image/${name.split(".")[1]}`}));
    return transfer;
}"""
WATCH = """() => {
    const [step, bar, preview] = ["step", "progress", "preview"].map((id) => document.getElementById(id));
    window.told = [];
    const look = () => told.push([step.textContent, bar.value, preview.checkVisibility()]);
    new MutationObserver(look).observe(step, {childList: true});
}"""
BYTES = """async () => {
    const bytes = new Uint8Array(await (await document.querySelector("#after").decode(), await new Promise((done) => {
        const request = indexedDB.open("img2img-playground");
        request.onsuccess = () => {
            const all = request.result.transaction("results").objectStore("results").getAll();
            all.onsuccess = () => done(all.result.at(-1).images[0].blob.arrayBuffer());
        };
    })));
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    checkpoint = Path("data/models/tiny-sd15")
    ink = build_lora(checkpoint, tmp_path_factory.mktemp("loras") / "ink.safetensors", seed=1)
    models: dict[str, dict[str, Any]] = {
        "fine": {"checkpoint": str(checkpoint), "reproducible": True, "loras": {"ink": str(ink)}, "defaults": DEFAULTS},
        "bold": {"checkpoint": "data/models/tiny-sd21v", "defaults": DEFAULTS | {"strength": 0.5}},
        "waiting": {"checkpoint": str(checkpoint)},
    }
    deployments = {
        "bold": {"max_ongoing_requests": 1, "max_queued_requests": 1},
        "waiting": {"ray_actor_options": {"num_cpus": 1000}, "graceful_shutdown_timeout_s": 0},
    }
    with serving(models, deployments=deployments, wait_for=2) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; on Debian: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, service: Service) -> Iterator[Any]:
    """The page as it opens; it has nothing to complain about and asks no other host."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=service.url)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    tab.on("console", lambda message: REFUSAL.match(message.text) or problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith((service.url, "blob:", "data:")) or problems.append(request.url),
    )
    visit(tab)
    yield tab
    context.close()
    assert problems == []


def visit(page: Any, path: str = "/") -> None:
    page.goto(path)
    page.locator("body[data-ready]").wait_for()


def choose(page: Any, photo: bytes = PHOTO, name: str = "me.png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": photo})
    page.locator("#stage[data-view=input]").wait_for()


def fill(page: Any, **values: object) -> None:
    for name, value in values.items():
        page.locator(f"#{name}").fill(str(value))


def generate(page: Any) -> bytes:
    """The first image that comes of it."""
    kept = page.locator("#history li").count()
    page.locator("#generate").click()
    page.locator("#stage[data-view=result]").wait_for()
    expect(page.locator("#history li")).to_have_count(kept + 1)
    return str(page.evaluate(BYTES)).encode("latin-1")


def drop(page: Any, data: bytes, name: str) -> None:
    transfer = page.evaluate_handle(DROP, [base64.b64encode(data).decode(), name])
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


def values(page: Any, *names: str) -> list[str]:
    return [page.locator(f"#{name}").input_value() for name in names]


def aborted(service: Service) -> int:
    """Asked from another thread: playwright's loop is this one's, and Ray refuses to wait in a loop's."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(service.stats, "fine").result()["aborted"]


def painted(page: Any) -> np.ndarray[Any, Any]:
    """Where the mask canvas has paint."""
    url = page.locator("#mask").evaluate("(canvas) => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).getchannel("A")) > 0


# What is served


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/playground/style.css", "text/css"),
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
    missing = service.client.get("/playground/../app.py")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


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


# Pictures and their settings


def test_samplers_have_the_names_that_pictures_carry(page: Any) -> None:
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
    drop(page, encode_image(pixels_of(PHOTO), file_format, parameters=text), f"made.{file_format}")
    expect(page.locator("#toast")).to_contain_text("The settings in this picture are in the form.")
    asked = settings.model_dump(exclude={"loras"})
    assert dict(zip(asked, values(page, *asked), strict=True)) == {name: str(value) for name, value in asked.items()}
    assert page.locator("[data-lora=ink]").input_value() == "0.75"
    page.get_by_role("button", name="Undo").click()
    assert values(page, "prompt", "seed") == ["in the style of picasso", ""]


def test_pasted_picture_becomes_the_input(page: Any) -> None:
    transfer = page.evaluate_handle(DROP, [base64.b64encode(PHOTO).decode(), "image.png"])
    page.evaluate("(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData}))", transfer)
    expect(page.locator("#caption")).to_contain_text("image.png, 192 × 256")


def test_file_that_is_no_picture_is_refused(page: Any) -> None:
    drop(page, b"no picture", "notes.png")
    expect(page.get_by_role("alert")).to_contain_text("This browser can show no picture in notes.png.")


# Runs


def test_run_shows_progress_and_then_the_result_beside_the_input(page: Any, service: Service) -> None:
    choose(page)
    page.get_by_label("Strength, slider").fill("0.8")
    fill(page, prompt="watercolour", seed=7, num_inference_steps=40)
    page.evaluate(WATCH)
    made = generate(page)
    told = [one for one in page.evaluate("told") if re.fullmatch(r"Step \d+ of 32", one[0])]
    assert told == sorted(told, key=lambda one: one[1])
    assert len({share for _, share, _ in told}) > 3
    assert told[-1][2], "no preview was shown"
    asked = {"prompt": "watercolour", "strength": 0.8, "num_inference_steps": 40, "seed": 7}
    assert made == service.post(PHOTO, **asked).content
    expect(page.locator("#caption")).to_have_text(re.compile("fine, 32 steps in .* s, seed 7"))

    after, split = page.locator("#after"), page.get_by_label("Before and after")
    assert after.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [192, 256]
    split.fill("20")
    expect(after).to_have_css("clip-path", "inset(0px 0px 0px 20%)")
    split.press("ArrowRight")
    expect(after).to_have_css("clip-path", "inset(0px 0px 0px 20.5%)")
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "me_fine_seed7.png"
    assert Path(download.value.path()).read_bytes() == made
    page.get_by_role("button", name="Use as input").click()
    expect(page.locator("#caption")).to_contain_text("me_fine_seed7.png, 192 × 256")


def test_several_images_are_shown_each_with_its_seed(page: Any) -> None:
    choose(page)
    fill(page, num_images=3)
    generate(page)
    page.get_by_role("button", name="Image 3").click()
    last = re.search(r"seed (\d+)", page.locator("#caption").inner_text())
    page.get_by_role("button", name="Image 1").click()
    first = re.search(r"seed (\d+)", page.locator("#caption").inner_text())
    assert first is not None
    assert last is not None
    assert int(last[1]) == int(first[1]) + 2
    page.get_by_role("button", name="Use this seed").click()
    assert values(page, "seed") == [first[1]]


@pytest.mark.parametrize("by", ["button", "key"])
def test_cancelling_frees_the_engine(by: str, page: Any, service: Service) -> None:
    before = aborted(service)
    choose(page)
    fill(page, num_inference_steps=150, strength=1, num_images=4, max_side=256)
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#step")).to_have_text(re.compile("Step"))
    page.locator("#cancel").click() if by == "button" else page.keyboard.press("Escape")
    expect(page.locator("#toast")).to_contain_text("Cancelled.")
    expect(page.locator("#generate")).to_be_visible()
    eventually(lambda: aborted(service) == before + 4)


def test_brush_paints_what_may_change_and_the_rest_is_kept(page: Any) -> None:
    choose(page)
    page.locator("#brush").click()
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    mask = painted(page)
    assert 0.02 < mask.mean() < 0.3
    fill(page, strength=0.9)
    made, photo = pixels_of(generate(page)), pixels_of(PHOTO)
    assert np.array_equal(made[~mask], photo[~mask])
    assert np.abs(made[mask].astype(int) - photo[mask]).mean() > 5


def test_mask_tools_work_from_the_keyboard(page: Any) -> None:
    choose(page)
    page.locator("#brush").press("Enter")
    canvas = page.locator("#mask")
    canvas.press("Space")
    dot = painted(page)
    for key in ("ArrowDown", "]", "Space"):
        canvas.press(key)
    assert 0 < dot.sum() < painted(page).sum()
    page.get_by_role("button", name="Invert").press("Enter")
    assert not painted(page)[128, 96]
    page.get_by_label("Erase").press("Space")
    before = painted(page).sum()
    for key in (*["ArrowLeft"] * 3, "Space"):
        canvas.press(key)
    assert painted(page).sum() < before
    page.get_by_role("button", name="Clear").first.press("Enter")
    assert not painted(page).any()


@pytest.mark.parametrize(("what", "run"), [("curl", ["bash", "-e"]), ("python", [sys.executable])])
def test_copied_code_works_as_it_is(what: str, run: list[str], page: Any, tmp_path: Path) -> None:
    choose(page, name="my photo.png")
    page.locator("#brush").click()
    page.locator("#mask").press("Space")
    page.get_by_label("ink", exact=True).fill("0.5")
    fill(page, prompt='it\'s @a; "$cat"\n🏰', negative_prompt="<grey", seed=11)
    page.locator(f"[data-copy={what}]").click()
    expect(page.locator("#toast")).to_contain_text("Copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "my photo.png").write_bytes(PHOTO)
    subprocess.run(run, input=code, cwd=tmp_path, text=True, check=True, capture_output=True)
    made = (tmp_path / "my photo_fine.png").read_bytes()
    assert parse_parameters(read_parameters(made) or "")["Prompt"] == 'it\'s @a; "$cat"\n🏰'
    assert made == generate(page)


def test_copied_code_saves_every_image(page: Any, tmp_path: Path) -> None:
    choose(page)
    fill(page, seed=11, num_images=2)
    page.locator("[data-copy=python]").click()
    expect(page.locator("#toast")).to_contain_text("Copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "me.png").write_bytes(PHOTO)
    subprocess.run([sys.executable], input=code, cwd=tmp_path, text=True, check=True, capture_output=True)
    assert (tmp_path / "me_fine_11.png").read_bytes() == generate(page)
    assert (tmp_path / "me_fine_12.png").exists()


def test_history_brings_back_the_picture_and_its_settings_until_it_is_cleared(page: Any) -> None:
    choose(page)
    page.locator("#brush").click()
    page.locator("#mask").press("Space")
    mask = painted(page)
    fill(page, prompt="sepia", strength=0.7)
    generate(page)
    visit(page)
    fill(page, prompt="another")
    page.get_by_role("button", name="Restore: sepia").click()
    page.locator("#stage[data-view=result]").wait_for()
    assert values(page, "prompt", "strength") == ["sepia", "0.7"]
    assert values(page, "seed") != [""]
    page.get_by_label("Input").press("Space")
    assert np.array_equal(painted(page), mask)
    page.locator("#clear-history").click()
    expect(page.locator("#history")).to_be_hidden()
    visit(page)
    expect(page.locator("#history")).to_be_hidden()


# What goes wrong


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strength", 2, "less than or equal to 1 (0 to 1)"),
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


def test_run_without_a_picture_asks_for_one(page: Any) -> None:
    page.locator("#generate").click()
    expect(page.locator("#image-error")).to_have_text("Choose a picture first.")


def test_full_queue_says_when_to_try_again(page: Any, service: Service) -> None:
    choose(page)
    page.locator("#model").select_option("bold")
    fill(page, num_images=8, num_inference_steps=100)
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"try again later\. Wait about \d+ s\."))
    fill(page, num_images=1, num_inference_steps=10)
    eventually(lambda: service.post(PHOTO, model="bold").status_code == 200)
    page.get_by_role("button", name="Try again").click()
    page.locator("#stage[data-view=result]").wait_for()


def test_server_that_wants_a_key_is_given_it(page: Any) -> None:
    """The key's check is put before the real server."""

    def check(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            return route.continue_()
        error = {"message": "no key", "type": "authentication_error", "param": None, "code": "invalid_api_key"}
        return route.fulfill(status=401, body=json.dumps({"error": error}), content_type="application/json")

    page.route("**/v1/**", check)
    page.reload()
    dialog = page.get_by_role("dialog", name="This server wants a key")
    for key in ("wrong", "open sesame"):
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use").click()
    page.locator("body[data-ready]").wait_for()
    choose(page)
    generate(page)
    expect(dialog).to_be_hidden()
    page.locator("[data-copy=curl]").click()
    expect(page.locator("#toast")).to_contain_text("Copied.")
    assert "$API_KEY" in page.evaluate("navigator.clipboard.readText()")


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
