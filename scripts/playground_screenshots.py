"""Makes docs/playground-*.jpg: the playground before, during and after a run, light and dark, large and on a phone.

Run it as `python -m scripts.playground_screenshots` beside `make serve`. It needs Chromium.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from playwright.sync_api import Browser, Page
from rich.console import Console

from deployments.config import REPO_ROOT
from scripts.browser import open_browser

PHOTOS = REPO_ROOT / "data" / "input_images"
CAT, ASTRONAUT = PHOTOS / "pets" / "cat.jpg", PHOTOS / "astronaut.jpg"
LARGE, PHONE = (1280, 900, 1), (360, 740, 2)  # width and height in CSS pixels, device pixels per CSS pixel
QUALITY = 85
TIMEOUT_MS = 120_000


def open_page(browser: Browser, url: str, screen: tuple[int, int, int], scheme: Any) -> Page:
    """The playground in a new browser context."""
    width, height, scale = screen
    page = browser.new_page(
        viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme=scheme, base_url=url
    )
    page.set_default_timeout(TIMEOUT_MS)
    page.goto("/")
    page.locator("body[data-ready]").wait_for()
    return page


def choose(page: Page, photo: Path, prompt: str, **values: str) -> None:
    """Choose a photo and fill in the form."""
    page.locator("#file").set_input_files(photo)
    for name, value in {"prompt": prompt, "seed": "3", **values}.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#caption", has_text=photo.name).wait_for()


def generate(page: Page, split: str = "45") -> None:
    """Generate an image, wait until it is in the history, and move the slider to `split` percent."""
    num_before = page.locator("#history li").count()
    page.locator("#generate").click()
    page.locator("#history li").nth(num_before).wait_for()
    page.locator("#split").fill(split)
    page.mouse.move(0, 0)


def paint_mask(page: Page) -> None:
    """A stroke of the brush over the cat's face."""
    page.locator("#brush").click()
    page.locator("#brush-size").fill("22")
    box = page.locator("#mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.36 * box["width"], box["y"] + 0.42 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=8)
    page.mouse.up()


def take_screenshot(page: Page, file: Path) -> None:
    """Write a screenshot of the window."""
    page.screenshot(path=file, type="jpeg", quality=QUALITY)
    Console().print(f"wrote {file}")


def main(
    url: Annotated[str, typer.Option(help="The URL of the running application.")] = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = REPO_ROOT / "docs",
) -> None:
    """Use the playground as a person would, and take screenshots of it."""
    with open_browser() as browser:
        page = open_page(browser, url, LARGE, "light")
        take_screenshot(page, out / "playground-start.jpg")
        for prompt in ("pencil sketch", "mosaic", "sepia", "neon night"):
            choose(page, CAT, prompt)
            generate(page)
        choose(page, CAT, "woodblock print")
        paint_mask(page)
        take_screenshot(page, out / "playground-mask.jpg")
        page.locator("#clear-mask").click()
        choose(page, CAT, "woodblock print", num_inference_steps="100")
        page.locator("#generate").click()
        page.locator("#step", has_text=re.compile(r"Step [345]\d of 60")).wait_for()
        take_screenshot(page, out / "playground-during.jpg")
        page.locator("#history li").nth(4).wait_for()
        choose(page, CAT, "woodblock print", num_inference_steps="20")
        generate(page)
        take_screenshot(page, out / "playground-light.jpg")
        page = open_page(browser, url, LARGE, "dark")
        choose(page, ASTRONAUT, "cartoon", num_images="4")
        generate(page)
        take_screenshot(page, out / "playground-dark.jpg")
        page = open_page(browser, url, PHONE, "light")
        choose(page, ASTRONAUT, "watercolour")
        generate(page)
        take_screenshot(page, out / "playground-phone.jpg")


if __name__ == "__main__":
    typer.run(main)
