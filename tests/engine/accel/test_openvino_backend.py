"""Compiled networks give diffusers' images too, whenever they come, and nothing stops where they do not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.config import ModelConfig
from deployments.engine.accel.backends import compile_first
from deployments.engine.accel.cpu import openvino_backend as openvino_form
from deployments.engine.accel.cpu.openvino_backend import compile_with_openvino
from deployments.engine.accel.cuda.backend import relative_error
from deployments.engine.engine import Engine
from deployments.engine.models.checkpoint import load_checkpoint
from deployments.engine.networks import eager
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.replica.build import build_engine
from tests.support.loras import build_lora
from tests.support.reference import Reference, make_engine, picture, run
from tests.support.service import eventually

Checkpoints = Callable[[str], Path]
REQUESTS = [
    Img2ImgRequest("a", picture(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", picture(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", picture(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),  # 11x9 latents, or 44x36
]


def make_compiled(checkpoint: Path, *, reproducible: bool = False, max_rows: int = 8) -> Engine:
    engine = make_engine(checkpoint, reproducible=reproducible, max_rows=max_rows)
    assert isinstance(engine.runner, Runner)
    compile_first(engine.runner, max_rows)
    return engine


def far(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "lcm"])
def test_images_are_diffusers_own(kind: str, checkpoints: Checkpoints) -> None:
    engine, reference = make_compiled(checkpoints(kind)), Reference(checkpoints(kind))
    images = run(engine, REQUESTS, join_every=2)
    assert isinstance(engine.runner, Runner)
    assert engine.runner.form == "openvino"
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
    monkeypatch.setattr(openvino_form, "SMALL_BYTES", 2**40 if small else 0)
    checkpoint = load_checkpoint(str(checkpoints(kind)), device="cpu", dtype="float32")
    plain = eager(checkpoint)
    compiled = compile_with_openvino(checkpoint)
    torch.manual_seed(0)
    for sides in [(8, 8), (9, 12), (11, 10), (13, 7)]:
        latents, times = torch.randn(4, 4, *sides), torch.randn(4, checkpoint.unet.times_width)
        context = torch.randn(4, 77, checkpoint.unet.context_width)
        expected = plain.unet(latents, times, context)
        for rows in (4, 3, 2, 1):
            outputs = compiled.unet(latents[:rows], times[:rows], context[:rows])
            torch.testing.assert_close(outputs, expected[:rows], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_networks_keep_their_weights_when_torch_has_no_more_use_for_them(
    dtype: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_form, "SMALL_BYTES", 0)  # a large one's are read where torch has them
    checkpoint = load_checkpoint(str(checkpoints("sd15")), device="cpu", dtype=dtype)
    plain = eager(checkpoint)
    torch.manual_seed(0)
    latents, times = torch.randn(1, 4, 8, 8), torch.randn(1, checkpoint.unet.times_width)
    context = torch.randn(1, 77, checkpoint.unet.context_width)
    row = [tensor.to(checkpoint.dtype) for tensor in (latents, times, context)]
    expected = plain.unet(*row)
    compiled = compile_with_openvino(checkpoint)
    gc.collect()
    fused = {weight.numel() * 16 // 9 for weight in checkpoint.unet.parameters()}  # 4x4 kernels in place of 3x3
    overwritten = [torch.full((size,), torch.nan, dtype=checkpoint.dtype) for size in fused for _ in range(9)]
    assert relative_error(compiled.unet(*row), expected) <= 0.03
    del overwritten  # it must be there until here


@torch.inference_mode()
def test_reproducible_rows_are_the_same_to_the_bit_whoever_is_beside_them(checkpoints: Checkpoints) -> None:
    checkpoint = load_checkpoint(str(checkpoints("sd15")), device="cpu", dtype="float32")
    compiled = compile_with_openvino(checkpoint, reproducible=True)
    torch.manual_seed(0)
    latents, times = torch.randn(4, 4, 8, 8), torch.randn(4, checkpoint.unet.times_width)
    context = torch.randn(4, 77, checkpoint.unet.context_width)
    together = compiled.unet(latents, times, context)
    alone = [compiled.unet(latents[i : i + 1], times[i : i + 1], context[i : i + 1]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_result_does_not_depend_on_batch_neighbours(checkpoints: Checkpoints) -> None:
    engine = make_compiled(checkpoints("sd15"), reproducible=True)
    together = run(engine, REQUESTS, join_every=1)
    for request in REQUESTS:
        assert np.array_equal(run(engine, [request])[request.request_id], together[request.request_id])


def test_form_that_comes_between_two_steps_changes_no_image(checkpoints: Checkpoints) -> None:
    expected = run(make_engine(checkpoints("sd15")), REQUESTS)
    engine = make_engine(checkpoints("sd15"))
    runner = engine.runner
    assert isinstance(runner, Runner)
    compiled = compile_with_openvino(runner.checkpoint)
    engine.add([runner.prepare(request) for request in REQUESTS])
    assert engine.step() == engine.step() == []
    runner.offer(compiled)
    images = run(engine, [])
    assert runner.form == "openvino"
    assert max(far(images[name], expected[name]) for name in expected) <= 1


@pytest.mark.parametrize(("compiled", "expected"), [(True, 1), (False, 2)])
def test_torch_shares_its_work_only_where_it_runs_the_network(
    compiled: bool, expected: int, checkpoints: Checkpoints, threads: Callable[[int], None]
) -> None:
    runner = (make_compiled if compiled else make_engine)(checkpoints("sd15")).runner
    assert isinstance(runner, Runner)
    engine, seen = Engine(runner, max_rows=8), []
    run(engine, REQUESTS[:1])  # takes the offer

    def counted(network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*inputs: Any) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return network(*inputs)

        return call

    networks = runner._networks
    vae = networks.vae._replace(encode=counted(networks.vae.encode), decode=counted(networks.vae.decode))
    runner.offer(networks._replace(unet=counted(networks.unet), vae=vae))
    threads(2)
    run(engine, REQUESTS[1:2])
    assert torch.get_num_threads() == 2
    assert seen == [expected] * (2 + REQUESTS[1].num_denoise_steps)


def test_adapters_take_part_though_the_compiled_networks_know_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    lora = build_lora(checkpoints("sd15"), tmp_path / "ink.safetensors", seed=1)
    asked = [REQUESTS[0], Img2ImgRequest("ink", picture(1, 64, 64), "a cat", loras=(("ink", 1.0),))]
    images = []
    for compiled in (False, True):
        opened = load_checkpoint(str(checkpoints("sd15")), device="cpu", dtype="float32", loras={"ink": str(lora)})
        runner = Runner(opened)
        if compiled:
            compile_first(runner, 8)
        images.append(run(Engine(runner, max_rows=8), asked))
    assert max(far(images[0][name], images[1][name]) for name in images[0]) <= 1


def test_requests_are_served_while_the_networks_are_compiled(checkpoints: Checkpoints) -> None:
    expected = run(make_engine(checkpoints("sd15")), REQUESTS)
    engine = build_engine(ModelConfig(checkpoint=str(checkpoints("sd15")), device="cpu", dtype="float32"))
    runner = engine.runner
    assert isinstance(runner, Runner)

    def compiled_by_now() -> bool:
        images = run(engine, REQUESTS)
        assert max(far(images[name], expected[name]) for name in expected) <= 1
        return runner.form == "openvino"

    eventually(compiled_by_now, patience_s=300)  # the compiler shares its processor with the requests


def test_torch_goes_on_where_the_compiler_fails(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this processor is unknown")

    monkeypatch.setattr(openvino_form, "_convert", fail)
    monkeypatch.setattr(openvino_form, "SMALL_BYTES", 0)
    engine = make_compiled(checkpoints("sd15"))
    assert isinstance(engine.runner, Runner)
    assert len(run(engine, REQUESTS)) == len(REQUESTS)
    assert engine.runner.form != "openvino"


def test_small_networks_are_converted_once_and_compute_the_same_ever_after(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checkpoint = load_checkpoint("data/models/tiny-sd15", device="cpu", dtype="float32")
    first = compile_with_openvino(checkpoint)

    def convert_again(*_: object) -> None:
        raise AssertionError("it was converted before")

    monkeypatch.setattr(openvino_form, "_convert", convert_again)
    again = compile_with_openvino(checkpoint)
    torch.manual_seed(0)
    unet = checkpoint.unet
    rows = torch.randn(2, unet.unet.config.in_channels, 16, 16), torch.randn(2, unet.times_width)
    context, pixels = torch.randn(2, 77, unet.context_width), torch.randn(1, 3, 64, 64)
    assert torch.equal(first.unet(*rows, context), again.unet(*rows, context))
    encoded = first.vae.encode(pixels)
    assert torch.equal(encoded, again.vae.encode(pixels))
    latents = encoded[:, : checkpoint.pipeline.vae.config.latent_channels]
    assert torch.equal(first.vae.decode(latents), again.vae.decode(latents))
