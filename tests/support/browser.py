"""A real browser on the playground, and what tests do with it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.browser import CHROMIUM, open_browser
from tests.support.images import file_of
from tests.support.service import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
expect = sync_api.expect

PHOTO = file_of(Image.open("data/input_images/astronaut.jpg").resize((192, 256)), "png")
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
    window.shown = [];
    const look = () => shown.push([step.textContent, bar.value, preview.checkVisibility()]);
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


@contextmanager
def launched() -> Iterator[Any]:
    """A browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; on Debian: apt install chromium")
    with open_browser() as chromium:
        yield chromium


@contextmanager
def tab_of(browser: Any, service: Service) -> Iterator[Any]:
    """A tab of a browser that has never been here, for a page without problems."""
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


def painted(page: Any) -> np.ndarray[Any, Any]:
    """Where the mask canvas has paint."""
    url = page.locator("#mask").evaluate("(canvas) => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).getchannel("A")) > 0
