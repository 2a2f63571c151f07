"""The one-file job with an app that runs already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray import serve

from deployments.images.codec import decode_image
from deployments.images.masks import MASK_BLUR
from deployments.images.metadata import read_parameters
from tests.support.folders import assert_refused
from tests.support.images import file_of, gradient
from tests.support.one_image import NAME, run_image, serve_config
from tests.support.stand_in import asking

pytestmark = pytest.mark.xdist_group("stand-in")


@pytest.mark.service
def test_bare_name_is_looked_up_and_the_result_named_by_its_settings(running_app: None, photo: Path):
    result = run_image("photo.png")
    assert result.exit_code == 0
    path = Path(result.output.splitlines()[-1])
    assert path == Path("data/output_images") / f"{NAME}.png"
    decoded = decode_image(path.read_bytes(), max_bytes=2**20, max_pixels=2**20)
    np.testing.assert_array_equal(decoded.pixels, 255 - gradient())


@pytest.mark.service
def test_every_option_reaches_the_image(running_app: None, photo: Path, tmp_path: Path):
    options = {
        "--prompt": "a fox",
        "--negative-prompt": "blurry",
        "--model": "blue",
        "--strength": 0.5,
        "--guidance-scale": 7.5,
        "--num-inference-steps": 12,
        "--seed": 3,
        "--sampler": "euler",
        "--max-side": 24,
        "--output-filename": "sub/fox.jpg",
        "--output": tmp_path / "elsewhere",
    }
    assert run_image(photo, *(part for option in options.items() for part in option)).exit_code == 0
    text = read_parameters((tmp_path / "elsewhere" / "sub" / "fox.jpg").read_bytes())
    assert text is not None
    assert text.startswith("a fox\nNegative prompt: blurry\nSteps: 12, Sampler: Euler")
    assert "CFG scale: 7.5, Seed: 3, Size: 24x16, Model: blue, Denoising strength: 0.5" in text


@pytest.mark.service
def test_mask_says_what_may_change(running_app: None, photo: Path):
    mask = np.zeros_like(gradient())
    half = mask.shape[1] // 2
    mask[:, :half] = 255
    (photo.parent / "masks").mkdir()
    (photo.parent / "masks" / "left.png").write_bytes(file_of(mask, "png"))
    result = run_image("photo.png", "--mask", "masks/left.png")
    assert result.exit_code == 0, result.output
    pixels = decode_image(Path(result.output.splitlines()[-1]).read_bytes(), max_bytes=2**20, max_pixels=2**20).pixels
    reach = int(3 * MASK_BLUR)  # of the feather, into what may change
    np.testing.assert_array_equal(pixels[:, : half - reach], 255 - gradient()[:, : half - reach])
    np.testing.assert_array_equal(pixels[:, half:], gradient()[:, half:])


@pytest.mark.service
def test_mask_that_is_no_image_is_bad_usage(running_app: None, photo: Path, tmp_path: Path):
    (tmp_path / "text.png").write_bytes(b"no image")
    assert_refused(run_image(photo, "--mask", "text.png"), "--mask", "'text.png': the file is not an image")
    assert not (photo.parent.parent / "output_images").exists()


@pytest.mark.service
def test_image_that_fails_says_why_and_exits_1(running_app: None, photo: Path):
    photo.write_bytes(file_of(asking("refuse"), "png"))
    result = run_image(photo)
    assert result.exit_code == 1
    assert "InvalidRequest: sampler must be euler for this model" in result.output
    assert not (photo.parent.parent / "output_images").exists()


@pytest.mark.service
def test_app_of_another_name_is_left_alone(running_app: None, photo: Path, tmp_path: Path):
    result = run_image(photo, "--config", serve_config(tmp_path), "--app-name", "other")
    assert_refused(result, "--config", "no app 'other'; apps: img2img")
    assert list(serve.status().applications) == ["img2img"]


@pytest.mark.parametrize(
    ("arguments", "option", "words"),
    [
        (["missing.png"], "FILENAME", "missing.png"),
        (["notes.txt"], "FILENAME", ".webp"),
        (["photo.png", "--strength", "2"], "--strength", "less than or equal to 1"),
        (["photo.png", "--mask", "missing.png"], "--mask", "no image 'missing.png'"),
        (["photo.png", "--output-filename", "fox.xcf"], "--output-filename", "'fox.xcf' must end in"),
    ],
)
def test_bad_usage_is_named_with_what_is_allowed(photo: Path, arguments: list[str], option: str, words: str):
    (photo.parent / "notes.txt").touch()
    assert_refused(run_image(*arguments), option, words)
