"""Makes docs/report.jpg: the report of a folder job over the sample images and a damaged file.

Run it as `python -m scripts.report_screenshot`. It needs Chromium and no running app.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console

from batch.report.writer import REPORT_FILE
from deployments.config import REPO_ROOT
from scripts.browser import open_browser

PHOTOS = REPO_ROOT / "data" / "input_images"
PROMPTS = ("a watercolour", "a woodblock print", "in the style of picasso", "neon night")
WIDTH, HEIGHT, SCALE = 1280, 900, 2
QUALITY = 85


def make_folder(folder: Path) -> Path:
    """Run the folder job. Returns the path of its report."""
    photos, paintings, prompts = folder / "photos", folder / "paintings", folder / "prompts.txt"
    shutil.copytree(PHOTOS, photos)
    (photos / "holiday.jpg").write_bytes((photos / "coffee.jpg").read_bytes()[:5000])
    prompts.write_text("\n".join(PROMPTS))
    command = [sys.executable, "-m", "batch.run_folder", "--input", str(photos), "--output", str(paintings)]
    job = subprocess.run([*command, "--prompts-file", str(prompts), "--strength", "0.35,0.6"], cwd=REPO_ROOT)
    if job.returncode != 1:
        raise RuntimeError(f"exit code {job.returncode}; expected 1 for the damaged file")
    return paintings / REPORT_FILE


def take_screenshot(report: Path, file: Path) -> None:
    """Open the report, move the sliders to a third, and write a screenshot of the window."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
        page.goto(report.as_uri())
        page.locator("#all-sliders").fill("33")
        page.wait_for_function("document.querySelectorAll('#grid .pair.ready').length > 0")
        shot = file.with_suffix(".png")
        page.screenshot(path=shot)
    with Image.open(shot) as opened:
        opened.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(
            file, quality=QUALITY, optimize=True
        )
    shot.unlink()


def main(
    out: Annotated[Path, typer.Option(help="The .jpg file to write.")] = REPO_ROOT / "docs" / "report.jpg",
) -> None:
    """Make a folder of paintings and take a screenshot of its report."""
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        take_screenshot(make_folder(Path(scratch)), out)
    Console().print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
