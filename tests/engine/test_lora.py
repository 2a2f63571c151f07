"""LoRAs: diffusers' own images, next to anybody, whatever is switched on for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.engine import Engine
from deployments.engine.errors import CheckpointError, InvalidRequest
from deployments.engine.request import Img2ImgRequest, Loras, Pixels
from deployments.schemas import parse_loras
from tests.support.loras import build_lora
from tests.support.reference import Reference, load_unet_family, make_runner, run, smooth_image

ASK = Img2ImgRequest("", smooth_image(1, 64, 48), "a cat", "blurry", 0.7, 6.0, 8, 3, "euler")
CHOICES: list[Loras] = [(), (("ink", 1.0),), (("ink", 0.4),), (("oil.v2", 0.9),), (("ink", 0.5), ("oil.v2", -0.5))]


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def files(kind: str, checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("loras")
    ink = build_lora(checkpoints(kind), folder / "ink.safetensors", seed=1)
    oil = build_lora(checkpoints(kind), folder / "oil.safetensors", seed=2, text=False)
    return {"ink": str(ink), "oil.v2": str(oil)}


def engine_with(checkpoint: Path, files: dict[str, str], *, reproducible: bool = False) -> Engine:
    return Engine(make_runner(checkpoint, loras=files, reproducible=reproducible), max_rows=8)


def stock(checkpoint: Path, files: dict[str, str], loras: Loras) -> Pixels:
    """What diffusers gives alone, with its own loading of the same LoRAs."""
    reference = Reference(checkpoint)
    for name, _ in loras:
        reference.pipeline.load_lora_weights(files[name], adapter_name=name.replace(".", "_"))
    if loras:
        reference.pipeline.set_adapters([name.replace(".", "_") for name, _ in loras], [weight for _, weight in loras])
    return reference(ASK)


@pytest.mark.slow
def test_images_are_diffusers_own_next_to_neighbours_with_other_loras(
    kind: str, checkpoints: Callable[[str], Path], files: dict[str, str]
) -> None:
    engine = engine_with(checkpoints(kind), files)
    requests = [replace(ASK, request_id=str(number), loras=loras) for number, loras in enumerate(CHOICES)]
    images = run(engine, requests, join_every=2)
    for number, loras in enumerate(CHOICES):
        expected = stock(checkpoints(kind), files, loras)
        assert np.abs(images[str(number)].astype(int) - expected.astype(int)).max() <= 2, loras
    different = {image.tobytes() for image in images.values()}
    assert len(different) == len(CHOICES)


@pytest.mark.slow
def test_a_model_with_loras_gives_the_same_bytes_as_one_without(
    kind: str, checkpoints: Callable[[str], Path], files: dict[str, str]
) -> None:
    plain = run(engine_with(checkpoints(kind), {}, reproducible=True), [ASK])[""]
    neighbour = replace(ASK, request_id="neighbour", loras=(("ink", 1.0),))
    adapted = run(engine_with(checkpoints(kind), files, reproducible=True), [ASK, neighbour], join_every=1)
    assert np.array_equal(adapted[""], plain)


def test_requests_with_the_same_loras_share_a_step_and_others_do_not(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    files = {"ink": str(build_lora(checkpoints("sd15"), tmp_path / "ink.safetensors", seed=1))}
    engine = engine_with(checkpoints("sd15"), files)
    with_ink = [replace(ASK, request_id=f"ink {number}", loras=(("ink", 1.0),)) for number in range(2)]
    without = [replace(ASK, request_id=f"plain {number}") for number in range(2)]
    run(engine, [*with_ink, *without])
    assert engine.stats()["steps"] == 2 * ASK.num_denoise_steps
    assert engine.stats()["unet_rows"] == 8 * ASK.num_denoise_steps


def test_loras_that_cannot_be_switched_on_do_not_reach_the_next_request(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    files = {"ink": str(build_lora(checkpoints("sd15"), tmp_path / "ink.safetensors", seed=1))}
    family = load_unet_family(checkpoints("sd15"), loras=files)
    inputs = family.example_inputs(1, (8, 8))
    with torch.inference_mode():
        plain = family.network(*inputs)
        with pytest.raises(TypeError, match="unsupported operand"):
            family.use_loras((("ink", "heavy"),))  # type: ignore[arg-type]
        family.use_loras(())
        assert torch.equal(family.network(*inputs), plain)


def test_unknown_lora_is_refused_by_name(checkpoints: Callable[[str], Path]) -> None:
    engine = engine_with(checkpoints("sd15"), {})
    with pytest.raises(InvalidRequest, match="no LoRA 'ink'; LoRAs: none") as caught:
        engine.runner.prepare(replace(ASK, loras=(("ink", 1.0),)))
    assert caught.value.param == "loras"


@pytest.mark.parametrize("fault", ["absent", "pickle", "damaged", "foreign"])
def test_bad_lora_file_is_refused_with_its_name(fault: str, checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / ("ink.bin" if fault == "pickle" else "ink.safetensors")
    match fault:
        case "pickle" | "damaged":
            file.write_bytes(b"rubbish")
        case "foreign":
            save_file({"somebody.elses.weight": torch.zeros(4)}, file)
    with pytest.raises(CheckpointError, match=r"loras\.ink: .*ink\."):
        engine_with(checkpoints("sd15"), {"ink": str(file)})


@pytest.mark.parametrize(
    ("text", "loras"),
    [
        ("", ()),
        ("ink", (("ink", 1.0),)),
        (" ink:0.8 , oil.v2:-2 ", (("ink", 0.8), ("oil.v2", -2.0))),
        ("ink:0", ()),
        ("ink:1,ink:0.5", (("ink", 0.5),)),
    ],
)
def test_loras_are_written_with_their_weights(text: str, loras: Loras) -> None:
    assert parse_loras(text) == loras


@pytest.mark.parametrize("text", ["ink:much", "ink:5", "ink:nan", "ink:inf"])
def test_bad_weight_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="weight"):
        parse_loras(text)
