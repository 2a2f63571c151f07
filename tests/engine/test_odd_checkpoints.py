"""Checkpoints as other tools write them give the images of the sound one, or are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.engine.engine import Engine
from deployments.engine.errors import CheckpointError
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from tests.support.checkpoints import to_single_file
from tests.support.reference import Reference, load_unet_family, run, smooth_image

Checkpoints = Callable[[str], Path]
COMMIT = "0123456789" * 4
LONG_PROMPT = "castle " * 300
REQUEST = Img2ImgRequest("a", smooth_image(1, 64, 64), LONG_PROMPT, "blurry", 0.6, 5.0, 10, 3)


def copy_of(checkpoint: Path, target: Path) -> Path:
    return shutil.copytree(checkpoint, target / checkpoint.name)


def configure(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def image_of(source: Path, **options: Any) -> Pixels:
    engine = Engine(Runner(load_unet_family(source, **options)), max_rows=8)
    return run(engine, [REQUEST])["a"]


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_tokenizer_without_a_length_cuts_at_the_text_encoders_window(
    kind: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copy_of(checkpoints(kind), tmp_path)
    for file in folder.glob("tokenizer*/tokenizer_config.json"):
        configure(file, model_max_length=None)
    assert image_of(folder).tobytes() == image_of(checkpoints(kind)).tobytes()


@pytest.mark.parametrize("parts", [["unet", "vae", "text_encoder"], ["vae"]])
def test_folder_whose_weights_are_only_a_variant_is_opened(
    parts: list[str], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copy_of(checkpoints("sd15"), tmp_path)
    for part in parts:
        (weights,) = (folder / part).glob("*.safetensors")
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert image_of(folder).tobytes() == image_of(checkpoints("sd15")).tobytes()


def test_plain_weights_are_preferred_to_a_variant_beside_them(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = copy_of(checkpoints("sd15"), tmp_path)
    for weights in folder.glob("*/*.safetensors"):
        weights.with_suffix(".fp16.safetensors").write_bytes(b"never opened")
    assert image_of(folder).tobytes() == image_of(checkpoints("sd15")).tobytes()


def test_repository_whose_weights_are_only_fp16_is_opened(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--somebody--styles"
    folder = shutil.copytree(checkpoints("sd15"), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for weights in folder.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert image_of(Path("somebody/styles")).tobytes() == image_of(checkpoints("sd15")).tobytes()


def single_file(checkpoint: Path, folder: Path, *markers: str) -> Path:
    """A copy as one file, with the configuration beside it, and empty tensors as markers."""
    copy_of(checkpoint, folder).rename(folder / "model")
    file = to_single_file(checkpoint, folder / "model.safetensors")
    save_file(load_file(file) | {marker: torch.empty(0) for marker in markers}, file)
    return file


@pytest.mark.parametrize(
    ("markers", "options", "changes"),
    [
        (["v_pred", "ztsnr"], {}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        (["v_pred"], {}, {"prediction_type": "v_prediction"}),
        ([], {"prediction": "v_prediction"}, {"prediction_type": "v_prediction"}),
        (["v_pred"], {"prediction": "epsilon"}, {}),
    ],
)
def test_single_file_predicts_what_its_markers_or_the_configuration_say(
    markers: list[str], options: dict[str, str], changes: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copy_of(checkpoints("sd15"), tmp_path / "said")
    configure(folder / "scheduler" / "scheduler_config.json", **changes)
    file = single_file(checkpoints("sd15"), tmp_path, *markers)
    family = load_unet_family(file, **options)
    assert family.describe()["prediction_type"] == changes.get("prediction_type", "epsilon")
    image = run(Engine(Runner(family), max_rows=8), [REQUEST])["a"]
    assert np.abs(image.astype(int) - Reference(folder)(REQUEST)).max() <= 1


@pytest.mark.parametrize("odd", [{"class_embed_type": "timestep"}, {"encoder_hid_dim_type": "text_proj"}])
def test_unet_that_needs_more_than_prompts_and_images_is_refused_when_it_is_opened(
    odd: dict[str, str], checkpoints: Checkpoints
) -> None:
    pipeline = load_unet_family(checkpoints("sd15")).checkpoint.pipeline
    pipeline.unet.register_to_config(**odd)
    with pytest.raises(CheckpointError, match=next(iter(odd))):
        StableDiffusion.kind.check(pipeline)


@pytest.mark.parametrize(("size", "native"), [(None, 512), ([16, 24], 192)])
def test_checkpoint_without_one_native_side_is_described(size: Any, native: int, checkpoints: Checkpoints) -> None:
    family = load_unet_family(checkpoints("sd15"))
    family.network.unet.register_to_config(sample_size=size)
    assert family.describe()["native_size"] == native * family.codec.factor // 8
