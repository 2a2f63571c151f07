"""What is opened is what was saved, and what cannot be served is refused with the reason."""

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
from deployments.engine.models.families import load_family
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from tests.support.checkpoints import to_single_file, with_overflowing_vae
from tests.support.reference import load_unet_family, run, smooth_image

REQUEST = Img2ImgRequest("a", smooth_image(1, 64, 64), "a cat", "blurry", 0.6, 5.0, 10, 3)


def load(source: Path, dtype: str = "float32", **more: Any) -> StableDiffusion:
    return load_unet_family(source, dtype, **more)


def image_of(family: StableDiffusion) -> Pixels:
    return run(Engine(Runner(family), max_rows=8), [REQUEST])["a"]


@pytest.fixture
def folder(checkpoints: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own to damage."""
    return shutil.copytree(checkpoints("sd15"), tmp_path / "damaged")


def refusal(source: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_family(str(source), device="cpu")
    assert str(source) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "family"), [("sd15", "sd1"), ("sd21", "sd2"), ("sdxl", "sdxl"), ("lcm", "sd1")])
def test_family_is_recognised(kind: str, family: str, checkpoints: Callable[[str], Path]) -> None:
    loaded = load(checkpoints(kind))
    assert loaded.name == family
    assert loaded.guidance == ("embedded" if kind == "lcm" else "cfg")
    assert loaded.device == torch.device("cpu")


@pytest.mark.parametrize(("kind", "overflows"), [("sd15", (False, False)), ("sd21", (True, False))])
def test_v_prediction_overflows_in_float16(
    kind: str, overflows: tuple[bool, bool], checkpoints: Callable[[str], Path]
) -> None:
    checkpoint = load(checkpoints(kind)).checkpoint
    assert checkpoint.kind.overflows(checkpoint.pipeline) == overflows


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", None])
def test_folder_of_an_unknown_pipeline_class_is_refused_by_name(name: str | None, tmp_path: Path) -> None:
    index = {"_class_name": name, "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    message = refusal(tmp_path)
    assert f"the pipeline class {name} is not supported" in message
    assert "StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline" in message


def test_folder_opens_by_its_pipeline_class_and_not_by_its_parts(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_2": [None, None]}))
    assert load(folder).name == "sd1"


@pytest.mark.parametrize("name", ["StableDiffusionControlNetPipeline", "LatentConsistencyModelImg2ImgPipeline"])
def test_folder_saved_by_another_pipeline_of_the_family_opens(name: str, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    assert load(folder).name == "sd1"


def test_single_file_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.joint_blocks.0.weight": torch.zeros(1)}, file := tmp_path / "sd3.safetensors")
    assert "no name begins with one of cond_stage_model., conditioner." in refusal(file)


def test_inpainting_unet_is_refused_by_name(checkpoints: Callable[[str], Path]) -> None:
    assert "4 input channels, and this one takes 9: an inpainting UNet" in refusal(checkpoints("inpainting"))


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".pkl"])
def test_pickle_is_refused_before_it_is_opened(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    assert "pickle" in refusal(file)


def test_folder_whose_unet_is_only_a_pickle_is_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert "unet has its weights only as a pickle; convert them to .safetensors" in refusal(folder)


def test_pickle_beside_safetensors_does_no_harm(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    assert load(folder).name == "sd1"


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer"])
@pytest.mark.parametrize("empty", [True, False])
def test_missing_part_is_named(part: str, empty: bool, folder: Path) -> None:
    shutil.rmtree(folder / part)
    if empty:
        (folder / part).mkdir()
    assert f"the folder {part}, which model_index.json names, is missing or empty" in refusal(folder)


def test_part_that_the_index_does_not_have_is_named(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": [None, None]}))
    assert "unet" in refusal(folder)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "data/models/nowhere"])
def test_missing_folder_is_not_taken_for_a_hub_id(source: str) -> None:
    assert refusal(source) == f"{source}: no such folder"


def test_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "model_index.json" in refusal(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: b"junk" * 100, lambda data: b""])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_weights_are_refused(part: str, damage: Callable[[bytes], bytes], folder: Path) -> None:
    (weights,) = (folder / part).glob("*.safetensors")
    weights.write_bytes(damage(weights.read_bytes()))
    refusal(folder)


def test_unknown_prediction_type_is_named(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "flow_prediction"}))
    assert "prediction_type 'flow_prediction' is none of epsilon, v_prediction, sample" in refusal(folder)


def test_absent_device_is_named(checkpoints: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="'mps' was requested"):
        load_family(str(checkpoints("sd15")), device="mps")


def test_single_file_is_the_folder_it_was_made_of(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    beside = shutil.copytree(checkpoints("sd15"), tmp_path / "model")
    original = load(beside)
    for part in ("unet", "vae", "text_encoder"):
        for file in (beside / part).glob("*.safetensors"):
            file.unlink()  # only the configuration is needed
    single = load(to_single_file(checkpoints("sd15"), tmp_path / "model.safetensors"))
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(original.checkpoint.pipeline, part).state_dict()
        weights = getattr(single.checkpoint.pipeline, part).state_dict()
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            assert torch.equal(weight, expected[name]), name
    assert image_of(single).tobytes() == image_of(original).tobytes()


def test_missing_single_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "model.safetensors")


def test_damaged_single_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"junk" * 100)
    refusal(file)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_network_has_the_configured_dtype(dtype: str, checkpoints: Callable[[str], Path]) -> None:
    checkpoint = load(checkpoints("sdxl"), dtype).checkpoint
    pipeline = checkpoint.pipeline
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {part.dtype for part in parts} == {checkpoint.dtype, *checkpoint.vae_dtypes} == {getattr(torch, dtype)}


@pytest.fixture
def overflowing(checkpoints: Callable[[str], Path], tmp_path: Path) -> Path:
    return with_overflowing_vae(checkpoints("sdxl"), tmp_path / "sdxl")


def test_sdxls_vae_that_overflows_in_float16_runs_in_float32(overflowing: Path) -> None:
    checkpoint = load(overflowing, "float16").checkpoint
    assert (checkpoint.pipeline.unet.dtype, checkpoint.pipeline.vae.dtype) == (torch.float16, torch.float32)
    assert checkpoint.vae_dtypes == (torch.float32, torch.float32)


def test_vae_that_overflows_in_float16_encodes_in_float32_beside_a_bfloat16_unet(overflowing: Path) -> None:
    exact, half = (load(overflowing, dtype) for dtype in ("float32", "bfloat16"))
    image = smooth_image(1, 64, 64)
    with torch.inference_mode():
        (expected,), (encoded,) = (family.codec.moments([image], [b"key"]) for family in (exact, half))
        assert torch.equal(encoded, expected)
        assert half.slot.backend.decode(expected[None, :4].bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_half_precision_gives_nearly_the_same_image(kind: str, dtype: str, checkpoints: Callable[[str], Path]) -> None:
    whole, half = (image_of(load(checkpoints(kind), name)).astype(int) for name in ("float32", dtype))
    assert 0 < np.abs(half - whole).mean() < 8


def test_memory_efficient_checkpoint_gives_the_same_image(checkpoints: Callable[[str], Path]) -> None:
    normal, sliced = (load(checkpoints("sd15"), memory_efficient=on) for on in (False, True))
    processors = [
        type(family.network.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor)
        for family in (normal, sliced)
    ]
    assert processors[0] is not processors[1]
    assert sliced.checkpoint.pipeline.vae.use_slicing
    assert np.abs(image_of(sliced).astype(int) - image_of(normal)).max() <= 1


def test_reproducible_checkpoint_is_float32_whatever_this_processor_is_fast_at(
    checkpoints: Callable[[str], Path],
) -> None:
    assert load(checkpoints("sd15"), "auto", reproducible=True).dtype == torch.float32
