"""The page of the report in a real browser, without any network."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batch.report.thumbnails import Pair, Thumbnails, thumbnail
from batch.report.writer import REPORT_FILE, write_report
from batch.storage.storage import open_storage
from tests.support.browser import launched
from tests.support.images import file_of, gradient
from tests.support.reports import BLUE, MARKUP, RED, Folders, failure, result


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that has nothing to complain about and asks for nothing but files of this machine."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
    yield tab
    context.close()
    assert problems == []


def open_in(page: Any, report: Path) -> None:
    """Open the report and wait for the images of its first page."""
    page.goto(report.as_uri())
    page.locator(".pair:not(.ready, .single, .missing)").first.wait_for(state="detached")
    page.evaluate("Promise.all([...document.images].map((image) => image.hidden || image.decode()))")


def split_of(page: Any) -> float:
    """Where the first image changes from before to after, from 0 to 1, as seen on the screen."""
    page.locator(".handle").first.evaluate("(handle) => { handle.style.visibility = 'hidden'; }")
    seen = np.asarray(Image.open(BytesIO(page.locator(".pair").first.screenshot())).convert("RGB"), int)
    row = seen[len(seen) // 2, 2:-2]  # the edges are blended with what lies around them
    is_before = np.abs(row - RED).sum(axis=1) < np.abs(row - BLUE).sum(axis=1)
    assert (np.diff(is_before.astype(int)) <= 0).all()
    return float(is_before.mean())


@pytest.mark.chromium
def test_slider_moves_between_before_and_after(page: Any, tmp_path: Path) -> None:
    open_in(page, Folders(tmp_path, [result(0)]).write())
    slider = page.locator(".pair input").first
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    assert split_of(page) == pytest.approx(0.5, abs=0.02)
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=5)
    page.mouse.up()
    assert split_of(page) == pytest.approx(0.8, abs=0.03)
    for _ in range(10):
        slider.press("ArrowLeft")
    assert split_of(page) == pytest.approx(0.7, abs=0.03)
    page.locator("#all-sliders").press("Home")
    assert split_of(page) == 0.0


@pytest.mark.chromium
def test_filters_leave_what_they_ask_for(page: Any, tmp_path: Path) -> None:
    open_in(page, Folders(tmp_path, [result(i) for i in range(12)]).write())
    names = page.locator(".card .name")
    assert names.count() == 12
    page.locator("#model").select_option(label="sd21v (6)")
    assert names.all_text_contents() == [f"in/{i:05}.png" for i in (1, 3, 5, 7, 9, 11)]
    page.locator("#prompt").select_option(label="a watercolour (4)")
    assert names.all_text_contents() == ["in/00001.png", "in/00007.png"]
    page.locator("#search").fill(f"WaterColour {2**60 + 7}")
    page.locator("#count", has_text="1 image").wait_for()
    assert names.all_text_contents() == ["in/00007.png"]
    page.locator("#search").fill("nothing of this kind")
    page.get_by_role("button", name="Clear the filters").click()
    assert names.count() == 12


@pytest.mark.chromium
def test_failures_stand_above_the_images_with_their_reasons(page: Any, tmp_path: Path) -> None:
    failures = [failure(i) for i in range(10, 30)] + [failure(40, "TimeoutError", "no answer within 600 s")]
    open_in(page, Folders(tmp_path, [result(0), *failures]).write())
    listed = page.locator("#failure-list li")
    assert page.locator("#failures").bounding_box()["y"] < page.locator("#images").bounding_box()["y"]
    cells = listed.first.locator("> *").all_inner_texts()
    assert cells == ["in/00010.png", "NotAnImage", "the PNG image is damaged after 3 attempts"]
    page.locator("#more-failures").click()
    assert listed.count() == 21
    page.get_by_role("button", name="TimeoutError 1").click()
    assert listed.locator("strong").all_inner_texts() == ["in/00040.png"]
    assert page.locator(".card").count() == 1


@pytest.mark.chromium
def test_detail_shows_the_full_images_and_every_setting(page: Any, tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(0, source="in/a #1 ?.png", seed=2**63 - 1, guidance_scale=0.0), result(1)])
    folders.inputs.write("in/a #1 ?.png", file_of(gradient(400, 300), "png"))
    folders.outputs.write("out/00000.png", file_of(gradient(400, 300), "png"))
    open_in(page, folders.write())
    page.locator(".name", has_text="a #1 ?").press("Enter")
    for file in ("./out/00000.png", "../my%20photos/in/a%20%231%20%3F.png"):
        side = page.locator(f"#detail img[src='{file}']")
        side.wait_for()
        assert side.evaluate("(image) => image.naturalWidth") == 400
    names, values = (page.locator(f"#detail-list {tag}").all_inner_texts() for tag in ("dt", "dd"))
    shown = dict(zip(names, values, strict=True))
    assert (shown["Seed"], shown["Guidance scale"]) == (str(2**63 - 1), "0")
    assert "Negative prompt" not in shown
    page.get_by_role("button", name="Previous image").click()
    assert page.locator("#detail-title").inner_text() == "in/00001.png"
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()


@pytest.mark.chromium
def test_report_needs_no_other_file(page: Any, tmp_path: Path) -> None:
    report = Folders(tmp_path, [result(0)]).write()
    open_in(page, report.rename(tmp_path / "alone.html"))
    assert split_of(page) == pytest.approx(0.5, abs=0.02)


@pytest.mark.chromium
def test_text_in_results_is_shown_and_never_acted_on(page: Any, tmp_path: Path) -> None:
    hostile = result(0, prompt=MARKUP, source="in/<b>.png")
    open_in(page, Folders(tmp_path, [hostile, failure(1, message=MARKUP)]).write())
    assert page.locator(".prompt").text_content() == MARKUP
    assert page.locator("#failure-list p").text_content().startswith(MARKUP)
    assert page.locator("h1").inner_text() == page.title() == "title <in> a test"
    assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone(page: Any, tmp_path: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    long = result(0, source="in/" + 60 * "long" + ".png", prompt=100 * "word" + MARKUP)
    open_in(page, Folders(tmp_path, [failure(1, message=300 * "x"), long]).write())
    page.locator(".name").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.chromium
def test_ten_thousand_rows_open_with_the_thumbnails_of_one_page(page: Any, tmp_path: Path) -> None:
    outputs = open_storage(str(tmp_path))
    results = [result(i) for i in range(10_000)]
    thumbnails = Thumbnails(outputs)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pair = Pair(thumbnail(noise), thumbnail(255 - noise))
    for one in results:
        thumbnails.add(one, pair)
    thumbnails.close()
    write_report(results, outputs, outputs, title="large")
    assert (tmp_path / REPORT_FILE).stat().st_size < 10 * 1024**2
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url) if "report_files" in request.url else None)
    open_in(page, tmp_path / REPORT_FILE)
    page.locator(".ready").last.wait_for()
    assert len(loaded) == 1
    assert page.locator(".card").count() == 24
    page.locator("#page").fill("417")
    page.locator("#page").press("Enter")
    page.locator(".ready").last.wait_for()
    assert page.locator(".name").last.text_content() == "in/09999.png"
    page.locator("#search").fill("in/04321")
    page.locator("#count", has_text="1 image").wait_for()
    page.locator(".ready").wait_for()
