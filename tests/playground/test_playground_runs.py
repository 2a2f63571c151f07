"""What the playground makes of an image: progress, results, masks, code, history; in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.images.metadata import parse_parameters, read_parameters
from tests.support.browser import (
    PHOTO,
    WATCH,
    choose,
    expect,
    fill,
    generate,
    painted,
    values,
    visit,
)
from tests.support.service import Service, eventually, pixels_of

pytestmark = [pytest.mark.chromium, pytest.mark.service, pytest.mark.xdist_group("playground")]


def aborted(service: Service) -> int:
    """Asked from another thread: playwright's loop is this one's, and Ray refuses to wait in a loop's."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(service.stats, "fine").result()["aborted"]


# Runs


def test_run_shows_progress_and_then_the_result_beside_the_input(page: Any, service: Service) -> None:
    choose(page)
    page.get_by_label("Strength, slider").fill("0.8")
    fill(page, prompt="watercolour", seed=7, num_inference_steps=40)
    page.evaluate(WATCH)
    result = generate(page)
    steps = [one for one in page.evaluate("shown") if re.fullmatch(r"Step \d+ of 32", one[0])]
    assert steps == sorted(steps, key=lambda one: one[1])
    assert len({share for _, share, _ in steps}) > 3
    assert steps[-1][2], "no preview was shown"
    fields = {"prompt": "watercolour", "strength": 0.8, "num_inference_steps": 40, "seed": 7}
    assert result == service.post(PHOTO, **fields).content
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
    assert Path(download.value.path()).read_bytes() == result
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
    result, photo = pixels_of(generate(page)), pixels_of(PHOTO)
    assert np.array_equal(result[~mask], photo[~mask])
    assert np.abs(result[mask].astype(int) - photo[mask]).mean() > 5


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
def test_copied_code_is_short_and_works_beside_the_image_and_the_downloaded_mask(
    what: str, run: list[str], page: Any, tmp_path: Path
) -> None:
    choose(page, name="my photo.png")
    page.locator("#brush").click()
    page.locator("#mask").press("Space")
    page.get_by_label("ink", exact=True).fill("0.5")
    fill(page, prompt='it\'s @a; "$cat"\n🏰', negative_prompt="<grey", seed=11)
    with page.expect_download() as mask:
        page.locator(f"[data-copy={what}]").click()
    expect(page.locator("#toast")).to_contain_text("Copied. Run it where the image and mask.png, now downloaded, are.")
    mask.value.save_as(tmp_path / mask.value.suggested_filename)
    code = page.evaluate("navigator.clipboard.readText()")
    assert len(code) < 1000
    (tmp_path / "my photo.png").write_bytes(PHOTO)
    subprocess.run(run, input=code, cwd=tmp_path, text=True, check=True, capture_output=True)
    result = (tmp_path / "my photo_fine.png").read_bytes()
    assert parse_parameters(read_parameters(result) or "")["Prompt"] == 'it\'s @a; "$cat"\n🏰'
    assert result == generate(page)


def test_negative_prompt_that_was_cleared_is_sent_as_empty(page: Any, service: Service) -> None:
    choose(page)
    page.locator("#model").select_option("bold")
    assert values(page, "negative_prompt") == ["blurry"]
    fill(page, prompt="sepia", negative_prompt="", seed=11)
    assert generate(page) == service.post(PHOTO, model="bold", prompt="sepia", negative_prompt="", seed=11).content
    visit(page, page.url)
    assert values(page, "model", "prompt", "negative_prompt") == ["bold", "sepia", ""]


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


def test_history_brings_back_the_image_and_its_settings_until_it_is_cleared(page: Any) -> None:
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
