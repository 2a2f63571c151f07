"""Compiled networks give diffusers' images too, whenever they come, and nothing stops where they do not."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.config import ModelConfig
from deployments.engine.accel.backends import compile_now
from deployments.engine.accel.cpu import openvino_backend as backend_module
from deployments.engine.accel.cpu.openvino_backend import openvino_backend
from deployments.engine.engine import Engine
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.replica.build import build_engine
from tests.support.loras import build_lora
from tests.support.reference import (
    Reference,
    load_unet_family,
    make_engine,
    relative_error,
    run,
    smooth_image,
    unet_family_of,
)
from tests.support.service import eventually

pytestmark = pytest.mark.slow

Checkpoints = Callable[[str], Path]
CONVERSION_OBSERVED = """
import sys
import torch
from deployments.engine.accel.cpu import openvino_backend

watched = ("os.fork", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "urllib.Request")
sys.addaudithook(lambda event, _: print(event) if event in watched else None)
network = openvino_backend._Float32(torch.nn.Linear(4, 4), lambda rows: rows + 1, torch.float32)
openvino_backend._convert_model(network, (torch.zeros(1, 4),))
print("converted")
"""
REQUESTS = [
    Img2ImgRequest("a", smooth_image(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", smooth_image(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", smooth_image(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),  # 11x9 latents, or 44x36
]


def make_compiled(checkpoint: Path, *, reproducible: bool = False, max_rows: int = 8) -> Engine:
    engine = make_engine(checkpoint, reproducible=reproducible, max_rows=max_rows)
    compile_now(unet_family_of(engine), max_rows)
    return engine


def far(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "lcm"])
def test_images_are_diffusers_own(kind: str, checkpoints: Checkpoints) -> None:
    engine, reference = make_compiled(checkpoints(kind)), Reference(checkpoints(kind))
    images = run(engine, REQUESTS, join_every=2)
    assert isinstance(engine.runner, Runner)
    assert engine.runner.backend == "openvino"
    assert max(far(images[request.request_id], reference(request)) for request in REQUESTS) <= 1


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch has, and the networks that are compiled meanwhile."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kind", "cores", "small"),
    [("sd15", 2, True), ("sd21", 2, True), ("sdxl", 2, True), ("lcm", 2, True), ("sd15", 2, False), ("sd15", 1, True)],
)
@torch.inference_mode()
def test_unet_gives_the_same_for_every_size_and_number_of_rows(
    kind: str,
    cores: int,
    small: bool,
    checkpoints: Checkpoints,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads(cores)
    monkeypatch.setattr(backend_module, "SMALL_BYTES", 2**40 if small else 0)
    family = load_unet_family(checkpoints(kind))
    compiled = openvino_backend(family)
    for shape in [(8, 8), (9, 12), (11, 10), (13, 7)]:
        inputs = family.example_inputs(4, shape)
        expected = family.network(*inputs)
        for rows in (4, 3, 2, 1):
            outputs = compiled.denoiser(*(tensor[:rows] for tensor in inputs))
            torch.testing.assert_close(outputs, expected[:rows], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_networks_keep_their_weights_when_torch_has_no_more_use_for_them(
    dtype: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "SMALL_BYTES", 0)  # a large one's are read where torch has them
    family = load_unet_family(checkpoints("sd15"), dtype)
    row = family.example_inputs(1, (8, 8))
    expected = family.network(*row)
    compiled = openvino_backend(family)
    gc.collect()
    fused = {weight.numel() * 16 // 9 for weight in family.network.parameters()}  # 4x4 kernels in place of 3x3
    overwritten = [torch.full((size,), torch.nan, dtype=family.dtype) for size in fused for _ in range(9)]
    assert relative_error(compiled.denoiser(*row), expected) <= 0.03
    del overwritten  # it must be there until here


@torch.inference_mode()
def test_reproducible_rows_are_bitwise_independent_of_their_neighbours(checkpoints: Checkpoints) -> None:
    family = load_unet_family(checkpoints("sd15"), reproducible=True)
    compiled, inputs = openvino_backend(family), family.example_inputs(4, (8, 8))
    together = compiled.denoiser(*inputs)
    alone = [compiled.denoiser(*(tensor[i : i + 1] for tensor in inputs)) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_result_does_not_depend_on_batch_neighbours(checkpoints: Checkpoints) -> None:
    engine = make_compiled(checkpoints("sd15"), reproducible=True)
    together = run(engine, REQUESTS, join_every=1)
    for request in REQUESTS:
        assert np.array_equal(run(engine, [request])[request.request_id], together[request.request_id])


def test_backend_swapped_in_between_two_steps_changes_no_image(checkpoints: Checkpoints) -> None:
    expected = run(make_engine(checkpoints("sd15")), REQUESTS)
    engine = make_engine(checkpoints("sd15"))
    family = unet_family_of(engine)
    compiled = openvino_backend(family)
    engine.add([engine.runner.prepare(request) for request in REQUESTS])
    assert engine.step() == engine.step() == []
    family.slot.swap_backend(compiled)
    images = run(engine, [])
    assert engine.runner.backend == "openvino"
    assert max(far(images[name], expected[name]) for name in expected) <= 1


@pytest.mark.parametrize(("compiled", "expected"), [(True, 1), (False, 2)])
def test_torch_shares_its_work_only_where_it_runs_the_network(
    compiled: bool, expected: int, checkpoints: Checkpoints, threads: Callable[[int], None]
) -> None:
    engine, seen = (make_compiled if compiled else make_engine)(checkpoints("sd15")), list[int]()

    def counted(network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*inputs: Any) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return network(*inputs)

        return call

    slot = unet_family_of(engine).slot
    backend = slot.backend
    denoiser, encode, decode = map(counted, (backend.denoiser, backend.encode, backend.decode))
    slot.swap_backend(backend._replace(denoiser=denoiser, encode=encode, decode=decode))
    threads(2)
    run(engine, REQUESTS[1:2])
    assert torch.get_num_threads() == 2
    assert seen == [expected] * (2 + REQUESTS[1].num_denoise_steps)


def test_loras_take_part_though_the_compiled_networks_know_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    lora = build_lora(checkpoints("sd15"), tmp_path / "ink.safetensors", seed=1)
    requests = [REQUESTS[0], Img2ImgRequest("ink", smooth_image(1, 64, 64), "a cat", loras=(("ink", 1.0),))]
    images = []
    for compiled in (False, True):
        family = load_unet_family(checkpoints("sd15"), loras={"ink": str(lora)})
        if compiled:
            compile_now(family, 8)
        images.append(run(Engine(Runner(family), max_rows=8), requests))
    assert max(far(images[0][name], images[1][name]) for name in images[0]) <= 1


def test_requests_are_served_while_the_networks_are_compiled(checkpoints: Checkpoints) -> None:
    expected = run(make_engine(checkpoints("sd15")), REQUESTS)
    engine = build_engine(ModelConfig(checkpoint=str(checkpoints("sd15")), device="cpu", dtype="float32"))

    def compiled_by_now() -> bool:
        images = run(engine, REQUESTS)
        assert max(far(images[name], expected[name]) for name in expected) <= 1
        return engine.runner.backend == "openvino"

    eventually(compiled_by_now, patience_s=300)  # the compiler shares its processor with the requests


def test_torch_goes_on_where_the_compiler_fails(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this processor is unknown")

    monkeypatch.setattr(backend_module, "_convert_model", fail)
    monkeypatch.setattr(backend_module, "SMALL_BYTES", 0)
    engine = make_compiled(checkpoints("sd15"))
    assert isinstance(engine.runner, Runner)
    assert len(run(engine, REQUESTS)) == len(REQUESTS)
    assert engine.runner.backend != "openvino"


def test_small_networks_are_converted_once_and_compute_the_same_ever_after(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    family = load_unet_family(Path("data/models/tiny-sd15"))
    first = openvino_backend(family)

    def convert_again(*_: object) -> None:
        raise AssertionError("it was converted before")

    monkeypatch.setattr(backend_module, "_convert_model", convert_again)
    again = openvino_backend(family)
    rows, pixels = family.example_inputs(2, (16, 16)), torch.randn(1, 3, 64, 64)
    assert torch.equal(first.denoiser(*rows), again.denoiser(*rows))
    encoded = first.encode(pixels)
    assert torch.equal(encoded, again.encode(pixels))
    latents = encoded[:, : family.vae.config.latent_channels]
    assert torch.equal(first.decode(latents), again.decode(latents))


@pytest.mark.subprocess
def test_conversion_tells_nobody() -> None:
    done = subprocess.run([sys.executable, "-c", CONVERSION_OBSERVED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["converted"]
