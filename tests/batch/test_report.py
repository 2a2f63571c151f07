"""The report shows the results of a folder job in a real browser, without any network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batch.record.results import Job, Result
from batch.report.contact_sheet import SHEET_CAPTION_PX, SHEET_GAP, SHEET_SIDE, contact_sheet
from batch.report.thumbnails import FOLDER, INDEX, PAIRS_PER_CHUNK, Pair, Thumbnails, thumbnail
from batch.report.writer import REPORT_FILE, SHEET_FILE, write_report
from batch.storage.storage import Storage, open_storage
from deployments.engine.request import Pixels
from deployments.schemas import Settings
from tests.support.pictures import file_of, gradient, rgb_profile

RED, BLUE = (220, 30, 30), (30, 30, 220)
MODELS = ("sd15", "sd21v")
PROMPTS = ("in the style of picasso", "a watercolour", "a woodblock print")
MARKUP = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>{{ data }} \u2028"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def result(number: int, **changes: Any) -> Result:
    """The result of the finished image `number`; every third has the next prompt, every second the next model."""
    values = {"negative_prompt": None, "strength": 0.3, "guidance_scale": 12.0, "num_inference_steps": 20}
    values |= {"model": MODELS[number % 2], "prompt": PROMPTS[number % 3], "seed": 2**60 + number}
    settings = Settings(**values | {"sampler": "dpmpp_2m", "max_side": 512})  # type: ignore[arg-type]
    job = Job(source=f"in/{number:05}.png", output=f"out/{number:05}.png", settings=settings)
    facts = {"width": 64, "height": 48, "total_s": 1.5, "attempts": 1}
    return Result.of(job, **facts).model_copy(update=changes)


def failure(number: int, kind: str = "NotAnImage", message: str = "the PNG image is damaged") -> Result:
    return result(number, error_type=kind, error=message, attempts=3)


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


class Folders:
    """An input and an output folder, with a red source and a blue output for every finished result."""

    def __init__(self, root: Path, results: list[Result]) -> None:
        self.results = results
        self.inputs: Storage = open_storage(str(root / "my photos"))
        self.outputs: Storage = open_storage(str(root / "results"))
        self.report = root / "results" / REPORT_FILE
        for one in results:
            if one.error_type is None:
                self.inputs.write(one.source, file_of(plain(RED), "png"))
                self.outputs.write(str(one.output), file_of(plain(BLUE), "png"))

    def write(self) -> Path:
        write_report(self.results, self.inputs, self.outputs, title="title <in> a test")
        return self.report


def colours(jpeg: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"), int)


@pytest.mark.parametrize(("size", "small"), [((1000, 500), (256, 128)), ((40, 30), (40, 30)), ((2, 900), (1, 256))])
def test_thumbnail_fits_into_256_px_and_is_never_enlarged(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert Image.open(BytesIO(thumbnail(gradient(*size)))).size == small


@pytest.mark.parametrize("profile", [rgb_profile(), b"no profile"])
def test_thumbnail_of_an_image_with_a_profile_has_its_colours(profile: bytes) -> None:
    np.testing.assert_allclose(colours(thumbnail(plain(RED), profile)), plain(RED), atol=4)


def test_thumbnails_are_kept_across_runs_and_made_once(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(i) for i in range(PAIRS_PER_CHUNK + 3)])
    folders.write()
    shutil.rmtree(tmp_path / "my photos")
    shutil.rmtree(tmp_path / "results" / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()}
    folders.write()
    assert {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()} == before
    assert {file.name for file in before} == {REPORT_FILE, SHEET_FILE, "index.json", "0.js", "1.js"}


def test_thumbnails_that_the_index_does_not_know_are_made_again(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(0), result(1)])
    first = folders.write().read_bytes()
    folders.outputs.write(INDEX, b"[[")
    folders.outputs.write(f"{FOLDER}/0.js", b"torn")
    assert folders.write().read_bytes() == first


def test_settings_that_changed_get_thumbnails_of_their_own(tmp_path: Path) -> None:
    old, new = result(0, digest="0" * 16), result(0, digest="1" * 16)
    outputs = Folders(tmp_path, [old]).outputs
    thumbnails = Thumbnails(outputs)
    thumbnails.add(old, Pair(b"old", b"old"))
    thumbnails.add(new, Pair(b"new", b"new"))
    thumbnails.close()
    again = Thumbnails(outputs)
    indices = [again.chunk_index(one) for one in (old, new)]
    assert [again.read(chunk)[position].after for chunk, position in filter(None, indices)] == [b"old", b"new"]


def test_lost_images_cost_their_thumbnails_and_nothing_else(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(0), result(1), result(2), failure(3)])
    (tmp_path / "my photos" / "in" / "00000.png").unlink()
    (tmp_path / "results" / "out" / "00001.png").write_bytes(b"damaged")
    folders.write()
    thumbnails = Thumbnails(folders.outputs)
    assert [thumbnails.chunk_index(one) for one in folders.results] == [(0, 0), None, (0, 1), None]
    assert [bool(pair.before) for pair in thumbnails.read(0)] == [False, True]


def test_contact_sheet_shows_before_beside_after() -> None:
    pairs = [(result(i), Pair(thumbnail(plain(RED)), thumbnail(plain(BLUE)))) for i in range(3)]
    sheet = contact_sheet(pairs)
    down = SHEET_SIDE + SHEET_CAPTION_PX + SHEET_GAP
    assert sheet.size == (2 * (2 * SHEET_SIDE + SHEET_GAP) + SHEET_GAP, 2 * down + SHEET_GAP)
    x, y = SHEET_GAP + SHEET_SIDE, SHEET_GAP + SHEET_SIDE - 20
    seen = [sheet.getpixel(at) for at in ((x - 20, y), (x + 20, y), (x - 20, y + down))]
    np.testing.assert_allclose(seen, [RED, BLUE, RED], atol=4)


def test_contact_sheet_draws_a_hundred_evenly(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(i) for i in range(101)])
    folders.write()
    rows = 100 // 5
    height = rows * (SHEET_SIDE + SHEET_CAPTION_PX + SHEET_GAP) + SHEET_GAP
    assert Image.open(tmp_path / "results" / SHEET_FILE).height == height


def test_job_without_a_finished_image_has_a_report_and_no_sheet(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [failure(0)])
    assert "the PNG image is damaged" in folders.write().read_text("utf-8")
    assert not (tmp_path / "results" / SHEET_FILE).exists()


# In the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; on Debian: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


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
    folders = Folders(tmp_path, [result(0, source="in/a #1 ?.png", seed=2**63 - 1), result(1)])
    folders.inputs.write("in/a #1 ?.png", file_of(gradient(400, 300), "png"))
    folders.outputs.write("out/00000.png", file_of(gradient(400, 300), "png"))
    open_in(page, folders.write())
    page.locator(".name", has_text="a #1 ?").press("Enter")
    for file in ("./out/00000.png", "../my%20photos/in/a%20%231%20%3F.png"):
        side = page.locator(f"#detail img[src='{file}']")
        side.wait_for()
        assert side.evaluate("(image) => image.naturalWidth") == 400
    assert str(2**63 - 1) in page.locator("#detail-list").inner_text()
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
def test_ten_thousand_rows_open_in_seconds(page: Any, tmp_path: Path) -> None:
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
    started = time.monotonic()
    open_in(page, tmp_path / REPORT_FILE)
    page.locator(".ready").last.wait_for()
    assert time.monotonic() - started < 5
    assert page.locator(".card").count() == 24
    page.locator("#page").fill("417")
    page.locator("#page").press("Enter")
    page.locator(".ready").last.wait_for()
    assert page.locator(".name").last.text_content() == "in/09999.png"
    page.locator("#search").fill("in/04321")
    page.locator("#count", has_text="1 image").wait_for()
    page.locator(".ready").wait_for()
