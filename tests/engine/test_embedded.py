"""The checkpoints that come with the repository paint what they are asked for, as stock diffusers does with them."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.backends.pipelines import StockPipeline
from benchmarks.embedded.painter import Painter, app_config, open_photo
from deployments.config import REPO_ROOT
from deployments.engine.request import Pixels

pytestmark = pytest.mark.slow

MODELS = REPO_ROOT / "data" / "models"
IDS = sorted(app_config().models)
BYTES = 14_000_000
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"


@cache
def painter(model_id: str) -> Painter:
    return Painter(MODELS / model_id)


@cache
def painting(model_id: str, prompt: str) -> Pixels:
    """The astronaut at the model's defaults."""
    it = painter(model_id)
    return it.paint([it.request(open_photo(PHOTO), prompt, seed=3)])[0]


def saturation(image: Pixels) -> float:
    return float(np.asarray(Image.fromarray(image).convert("HSV"))[..., 1].mean())


@pytest.mark.parametrize("model_id", IDS)
def test_a_checkpoint_is_small_half_precision_and_complete(model_id: str) -> None:
    files = [file for file in (MODELS / model_id).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= BYTES
    assert {file.suffix for file in files} <= {".json", ".txt", ".safetensors"}
    for file in files:
        if file.suffix == ".safetensors":
            assert {str(weight.dtype) for weight in load_file(file).values()} == {"float16"}


@pytest.mark.parametrize("model_id", IDS)
def test_stock_diffusers_paints_the_same_image(model_id: str) -> None:
    it = painter(model_id)
    request = it.request(open_photo(PHOTO), "watercolour", seed=11)
    ours = it.paint([request])[0]
    stock = StockPipeline(str(MODELS / model_id), "cpu")([request])[0]
    assert np.abs(ours.astype(int) - stock.astype(int)).max() <= 1


@pytest.mark.parametrize("model_id", IDS)
def test_a_style_has_its_colours(model_id: str) -> None:
    red, green, blue = painting(model_id, "blueprint").mean((0, 1))
    assert blue > green > red
    red, green, blue = painting(model_id, "sepia").mean((0, 1))
    assert red > green > blue
    assert saturation(painting(model_id, "pencil sketch")) < 30 < saturation(painting(model_id, "cartoon"))
    assert painting(model_id, "neon night").mean() < 100 < painting(model_id, "pencil sketch").mean()


@pytest.mark.parametrize("model_id", IDS)
def test_words_that_name_no_style_keep_the_photo(model_id: str) -> None:
    photo = open_photo(PHOTO)
    kept, painted = (painting(model_id, prompt).astype(int) for prompt in ("with a cat in the corner", "blueprint"))
    assert np.abs(kept - photo).mean() < 25 < np.abs(painted - photo).mean()


def test_stock_diffusers_loads_them_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model_id in IDS:
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(MODELS / model_id)
        assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 256


def test_one_predicts_noise_and_the_other_v() -> None:
    configs = [json.loads((MODELS / model_id / "scheduler" / "scheduler_config.json").read_text()) for model_id in IDS]
    assert sorted(config["prediction_type"] for config in configs) == ["epsilon", "v_prediction"]
