"""The folder job over a folder as people have them: 40 files of every kind, ten of them broken, twice."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image

from tests.support.folders import Folder
from tests.support.images import exif, file_of, gradient
from tests.support.service import Service, serving

pytestmark = pytest.mark.service
SOUND, BROKEN = 30, 10
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path]) -> Iterator[Service]:
    models = {
        "one": {"checkpoint": str(checkpoints("sd15")), "reproducible": True},
        "two": {"checkpoint": str(checkpoints("sd21")), "reproducible": True},
    }
    with serving(models, defaults={"strength": 0.5, "num_inference_steps": 4, "max_side": 48}, seed=5) as service:
        yield service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 sound images and ten broken ones, in nested folders, with awkward names."""
    folder = tmp_path_factory.mktemp("photos")
    for path, data in _sound() | _broken():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    assert sum(path.is_file() for path in folder.rglob("*")) == SOUND + BROKEN
    return folder


def _sound() -> set[tuple[str, bytes]]:
    files: dict[str, bytes] = {
        "Photo.JPG": file_of(gradient(40, 30), "JPEG"),
        "photo.jpg": file_of(gradient(30, 40), "JPEG"),
        "photo.png": file_of(gradient(31, 33), "PNG"),
        "été/Ünïcode 猫 🏰.png": file_of(gradient(33, 31), "PNG"),
        "deep/er/and deeper/spaced name.webp": file_of(gradient(50, 20), "WEBP"),
        "print.jpg": file_of(Image.fromarray(gradient(40, 24)).convert("CMYK"), "JPEG"),
        "grey.png": file_of(Image.fromarray(gradient(24, 40)).convert("L"), "PNG"),
        "palette.gif": file_of(Image.fromarray(gradient(24, 24)).convert("P"), "GIF"),
        "deep16.png": file_of(Image.new("I;16", (20, 20), 30000), "PNG"),
        "cut out.png": file_of(Image.fromarray(gradient(28, 20)).convert("RGBA").rotate(45), "PNG"),
    }
    for turn in range(1, 9):
        files[f"camera/turned {turn}.jpg"] = file_of(gradient(40, 24), "JPEG", exif=exif(turn))
    formats = list(SUFFIXES.items())
    for number in range(SOUND - len(files)):
        format, suffix = formats[number % len(formats)]
        pixels = gradient(20 + number % 17, 20 + number % 23)
        files[f"many/{number % 5}/{number:03d}{suffix}"] = file_of(pixels, format)
    return set(files.items())


def _broken() -> set[tuple[str, bytes]]:
    text = b"this is not an image"
    files = {f"broken/text {number}.jpg": text + bytes([48 + number]) for number in range(5)}
    files["broken/empty.png"] = b""
    files["broken/truncated.jpg"] = file_of(gradient(60, 60), "JPEG")[:500]
    files["broken/truncated.png"] = file_of(gradient(60, 60), "PNG")[:-80]
    files["broken/one pixel.png"] = file_of(gradient(1, 1), "PNG")
    files["broken/thin.png"] = file_of(gradient(20000, 20), "PNG")
    assert len(files) == BROKEN
    return set(files.items())


def run_folder(folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """The command line, joining the application of the fixture."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "batch.run_folder", "--input", str(folder), "--output", str(output)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def contents(output: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in Folder(str(output)).results().items()}


def upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else image.size


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def first_run(service: Service, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run prints, and its output folder."""
    output = tmp_path_factory.mktemp("first")
    run = run_folder(folder, output)
    assert run.returncode == 1, run.stderr[-2000:]
    return run.stdout, output


def test_40_mixed_files_give_30_images_and_10_listed_errors_twice_the_same(
    first_run: tuple[str, Path], folder: Path, tmp_path: Path
) -> None:
    printed, output = first_run
    rows = rows_of(output)
    done = [row for row in rows if not row["error_type"]]
    failed = [row for row in rows if row["error_type"]]

    assert {row["source"] for row in rows} == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert (len(done), len(failed)) == (SOUND, BROKEN)
    assert {row["source"].split("/")[0] for row in failed} == {"broken"}
    assert all(f"failed: {row['source']}: {row['error_type']}" in printed for row in failed)
    assert {row["model"] for row in done} == {"one", "two"}
    assert len({row["prompt"] for row in done}) == 4
    for row in done:
        assert Image.open(output / row["output"]).size == upright_size(folder / row["source"]), row
        assert (row["width"], row["height"]) == upright_size(folder / row["source"])

    outputs = contents(output)
    assert set(outputs) == {row["output"] for row in done}
    assert len({name.casefold() for name in outputs}) == SOUND
    assert run_folder(folder, tmp_path).returncode == 1
    assert contents(tmp_path) == outputs


def test_folder_job_and_http_api_make_the_same_image(
    service: Service, first_run: tuple[str, Path], folder: Path
) -> None:
    output = first_run[1]
    [row] = [row for row in rows_of(output) if row["source"] == "photo.png"]
    names = ("model", "prompt", "strength", "guidance_scale", "num_inference_steps", "seed", "sampler", "max_side")
    reply = service.post((folder / "photo.png").read_bytes(), **{name: row[name] for name in names})
    assert reply.content == (output / row["output"]).read_bytes()
