"""Makes docs/playground-light.jpg: the playground with a history of results and the slider between before and after.

Run it as `python -m scripts.playground_screenshot` beside `make serve`. It needs Chromium.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page
from rich.console import Console

from deployments.config import REPO_ROOT
from scripts.browser import open_browser

CAT = REPO_ROOT / "data" / "input_images" / "pets" / "cat.jpg"
PROMPTS = ("pencil sketch", "mosaic", "sepia", "neon night", "woodblock print")
WIDTH, HEIGHT = 1280, 900
SPLIT = "45"  # percent of the image that show the source
QUALITY = 85
TIMEOUT_MS = 120_000


def open_page(browser: Browser, url: str) -> Page:
    """The playground in a new browser context."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", base_url=url)
    page.set_default_timeout(TIMEOUT_MS)
    page.goto("/")
    page.locator("body[data-ready]").wait_for()
    return page


def choose(page: Page, photo: Path, prompt: str) -> None:
    """Choose a photo and fill in the form."""
    page.locator("#file").set_input_files(photo)
    for name, value in {"prompt": prompt, "seed": "3"}.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#caption", has_text=photo.name).wait_for()


def generate(page: Page) -> None:
    """Generate an image, wait until it is in the history, and move the slider."""
    num_before = page.locator("#history li").count()
    page.locator("#generate").click()
    page.locator("#history li").nth(num_before).wait_for()
    page.locator("#split").fill(SPLIT)
    page.mouse.move(0, 0)


def main(
    url: Annotated[str, typer.Option(help="The URL of the running application.")] = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help="The file to write.")] = REPO_ROOT / "docs" / "playground-light.jpg",
) -> None:
    """Use the playground as a person would, and take a screenshot of it."""
    with open_browser() as browser:
        page = open_page(browser, url)
        for prompt in PROMPTS:
            choose(page, CAT, prompt)
            generate(page)
        page.screenshot(path=out, type="jpeg", quality=QUALITY)
    Console().print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
