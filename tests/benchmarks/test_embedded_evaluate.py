"""The measurements of a trained checkpoint find what they are for, and all of them end in one table and one file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.embedded import measures
from benchmarks.embedded.evaluate import INPUT_IMAGES, Evaluation, Scale, draw, evaluate, main, weight_hashes
from benchmarks.embedded.measures import FREE_WORDS, Finding, edge_correlation, random_request, trouble_with
from benchmarks.embedded.painter import Painter, app_config, model_of, open_photo
from deployments.config import Defaults
from deployments.engine.errors import NumericalError
from deployments.engine.request import Pixels, Sampler
from tests.support.images import gradient
from tests.support.records import FACTS
from tests.support.reference import smooth_image
from training.classifier import StyleClassifier
from training.styles import STYLES, paint

MODELS = INPUT_IMAGES.parent / "models"
NOTHING = np.full((64, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def painter(checkpoints: Callable[[str], Path]) -> Painter:
    return Painter(checkpoints("sd15"), Defaults(num_inference_steps=5, strength=0.6))


@pytest.fixture(scope="module")
def photos() -> list[Pixels]:
    return [smooth_image(seed, 64, 64) for seed in range(3)]


@pytest.mark.slow
def test_evaluation_of_a_checkpoint_answers_every_question(
    painter: Painter, photos: list[Pixels], tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guessing = StyleClassifier()
    evaluation, grid = evaluate(painter, photos, guessing, Scale(photos=2, settings=2), FACTS)
    found = {finding.name: finding for finding in evaluation.findings}
    assert len(found) == len(evaluation.findings)
    assert found["difference from stock diffusers, of 255"].ok
    assert found["failures in 2 random settings"].measured == len(evaluation.troubles) == 0
    assert not found["style recognised"].ok
    assert not evaluation.ok
    assert evaluation.photos == 2
    assert list(evaluation.edge_correlation) == list(measures.STRENGTHS)
    for confusion in (evaluation.confusion, evaluation.confusion_of_synonyms):
        assert {sum(named.values()) for named in confusion.values()} == {2}
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation

    draw(photos[:2], grid, tmp_path / "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > len(STYLES) * 128


def test_grid_has_each_photos_image_where_it_belongs(painter: Painter, photos: list[Pixels]) -> None:
    grid = measures.paint_grid(painter, photos, {"mosaic": ("a", "b"), "sepia": ("c",)}, guidance_scale=3.0)
    alone = painter.paint([painter.request(photos[1], "b", seed=1, guidance_scale=3.0)])
    assert {style: len(images) for style, images in grid.items()} == {"mosaic": 3, "sepia": 3}
    assert abs(grid["mosaic"][1].astype(int) - alone[0]).max() <= 1


def test_style_that_is_its_own_negative_is_the_image_without_guidance(painter: Painter, photos: list[Pixels]) -> None:
    prompts = {"mosaic": ("mosaic",)}
    (negated,) = measures.paint_grid(painter, photos[:1], prompts, negated=True)["mosaic"]
    (unguided,) = measures.paint_grid(painter, photos[:1], prompts, guidance_scale=1.0)["mosaic"]
    (guided,) = measures.paint_grid(painter, photos[:1], prompts)["mosaic"]
    assert abs(negated.astype(int) - unguided).max() <= 1 < abs(negated.astype(int) - guided).max()


def test_autoencoder_is_measured_without_the_unet(painter: Painter) -> None:
    smooth, noise = gradient(64, 64), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mean, worst = measures.autoencoder(painter, [smooth, noise])
    assert worst.measured < mean.measured
    assert measures.autoencoder(painter, [smooth])[0].measured > 15


@pytest.mark.parametrize(
    ("measured", "least", "most", "ok", "bound"),
    [
        (0.9, 0.9, None, True, "at least 0.9"),
        (0.899, 0.9, None, False, "at least 0.9"),
        (0.0, None, 0, True, "at most 0"),
        (0.1, None, 0, False, "at most 0"),
        (float("nan"), 0.9, None, False, "at least 0.9"),
        (float("nan"), None, 0, False, "at most 0"),
        (-5.0, None, None, True, "for information"),
    ],
)
def test_finding_is_held_to_its_bound(
    measured: float, least: float | None, most: float | None, ok: bool, bound: str
) -> None:
    finding = Finding(name="", measured=measured, least=least, most=most)
    assert (finding.ok, finding.bound) == (ok, bound)


def test_recognition_counts_painted_styles_and_photos_apart() -> None:
    right = {style: {style: 4} for style in STYLES}
    mixed = right | {"mosaic": {"cubist": 3, "mosaic": 1}, "photo": {"sepia": 4}}
    findings = {finding.name: finding.measured for finding in measures.recognition(mixed, right)}
    assert findings == {
        "style recognised": pytest.approx(45 / 48),
        "style recognised, worst style": 0.25,
        "style recognised, synonyms": 1.0,
        "photo recognised": 0.0,
    }


def test_edge_correlation_falls_from_one_as_edges_move() -> None:
    source = smooth_image(1, 64, 64)
    assert edge_correlation(source, source) == pytest.approx(1)
    assert edge_correlation(source, 255 - source) == pytest.approx(1, abs=0.01)
    shifted = [edge_correlation(source, np.roll(source, by, axis=1)) for by in (1, 2, 4)]
    assert 1 > shifted[0] > shifted[1] > shifted[2]
    assert abs(edge_correlation(source, smooth_image(2, 64, 64))) < 0.3
    assert edge_correlation(source, NOTHING) == 0


def test_image_is_blamed_only_for_what_its_source_has_not() -> None:
    source = smooth_image(1, 64, 64)
    assert trouble_with(source, NumericalError("NaN")) == "NaN"
    assert trouble_with(source, NOTHING) == "flat"
    assert trouble_with(source, source // 20) == "black"
    assert trouble_with(NOTHING, NOTHING) is None
    assert trouble_with(source // 20, source // 20) is None


@pytest.mark.parametrize("style", STYLES)
def test_no_style_is_taken_for_a_failure(style: str) -> None:
    source = smooth_image(1, 64, 64)
    assert trouble_with(source, paint(source, style, "bold")) is None


def test_random_settings_cover_what_a_request_may_ask_for(painter: Painter, photos: list[Pixels]) -> None:
    requests = [random_request(painter, photos, number) for number in range(300)]
    sides = [side for request in requests for side in request.pixels.shape[:2]]
    assert min(sides) == 128
    assert 400 < max(sides) <= 512
    assert {side % 8 for side in sides} == {0}
    assert sum(side < 256 for side in sides) > len(sides) / 2
    assert {request.sampler for request in requests} == set(get_args(Sampler)) - {"lcm"}
    assert min(request.num_denoise_steps for request in requests) >= 1
    assert {request.num_inference_steps for request in requests} == set(range(2, 31))
    assert len({request.prompt for request in requests}) > 150
    assert "" in {request.prompt for request in requests}
    assert 50 < sum(bool(request.negative_prompt) for request in requests) < 150
    assert not any(request.negative_prompt for request in requests if request.prompt in FREE_WORDS)


def test_random_settings_are_the_same_every_time(painter: Painter, photos: list[Pixels]) -> None:
    first, again = (random_request(painter, photos, 7) for _ in range(2))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert (first.prompt, first.seed, first.strength) == (again.prompt, again.seed, again.strength)


def test_failure_of_a_request_is_handed_back_or_raised(painter: Painter, photos: list[Pixels]) -> None:
    requests = [painter.request(photos[0], "a cat", guidance_scale=scale) for scale in (float("inf"), 1.0)]
    failed, image = painter.attempt(requests)
    assert isinstance(failed, NumericalError)
    assert isinstance(image, np.ndarray)
    with pytest.raises(NumericalError):
        painter.paint(requests)


def test_checkpoint_takes_the_defaults_of_the_model_it_is_named_after(tmp_path: Path) -> None:
    assert model_of(tmp_path / "tiny-sd15" / "run 3" / "tiny-sd21v") == "tiny-sd21v"
    assert model_of(tmp_path / "tiny-sd15" / "checkpoint") == "tiny-sd15"
    assert Painter(MODELS / "tiny-sd15").defaults == app_config().defaults_for("tiny-sd15")
    with pytest.raises(ValueError, match=r"names a model of serve_config\.yaml: tiny-sd15, tiny-sd21v"):
        model_of(tmp_path)


def test_photo_is_cut_to_its_middle_and_never_stretched(tmp_path: Path) -> None:
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, 50:100] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    square = open_photo(tmp_path / "wide.png", 32, 32)
    assert square.shape == (32, 32, 3)
    assert abs(square[4:-4, 4:-4].astype(int) - (200, 100, 50)).max() <= 1


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "model_index.json").write_text("{}")
    assert weight_hashes(tmp_path) == {"unet/weights.safetensors": hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize(
    ("checkpoint", "complaint"),
    [
        (INPUT_IMAGES, "names a model of serve_config.yaml: tiny-sd15, tiny-sd21v"),
        (MODELS / "tiny-sd15", "7 photos with the repository's own; at least 20 are needed"),
    ],
)
def test_wrong_options_are_named(checkpoint: Path, complaint: str, tmp_path: Path) -> None:
    np.save(tmp_path / "held_out.npy", np.zeros((1, 256, 256, 3), np.uint8))
    app = typer.Typer()
    app.command()(main)
    options = ["--checkpoint", checkpoint, "--photos", tmp_path]
    options += ["--classifier", tmp_path / "none.safetensors", "--out", tmp_path / "result.json"]
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(option) for option in options])
    assert done.exit_code == 2
    assert complaint in done.output
    assert not (tmp_path / "result.json").exists()
