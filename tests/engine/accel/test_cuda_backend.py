"""The backends of a GPU, with graphs that a CPU can replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from deployments.engine.accel.cuda.backend import (
    CALLS,
    GRAPHS,
    INDUCTOR,
    CudaBackends,
    cuda_backends,
    is_faster,
    relative_error,
)
from deployments.engine.accel.cuda.graphs import CaptureLimits, Counters, Graph, GraphedModule
from deployments.engine.accel.cuda.inductor import compiled
from deployments.engine.models.checkpoint import load_checkpoint
from deployments.engine.models.families import FAMILIES
from deployments.engine.models.lora import without_loras
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from tests.support.graph_replays import CallAgain
from tests.support.loras import build_lora
from tests.support.reference import load_unet_family, make_engine, run, smooth_image, unet_family_of

pytestmark = pytest.mark.slow

Checkpoints = Callable[[str], Path]
MAX_ROWS = 3
REQUESTS = [
    Img2ImgRequest("a", smooth_image(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", smooth_image(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", smooth_image(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),
]


def far(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


def furthest(images: dict[str, Pixels], expected: dict[str, Pixels]) -> int:
    return max(far(images[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def expected(checkpoints: Checkpoints) -> dict[str, Pixels]:
    return run(make_engine(checkpoints("sd15"), max_rows=MAX_ROWS), REQUESTS)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """What is compiled with them must be called with them, or torch compiles it again."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_backends_swapped_in_between_two_steps_change_no_image(
    checkpoints: Checkpoints, expected: dict[str, Pixels]
) -> None:
    engine = make_engine(checkpoints("sd15"), max_rows=MAX_ROWS)
    runner = engine.runner
    assert isinstance(runner, Runner)
    capture = CallAgain()
    backends = CudaBackends(unet_family_of(engine), MAX_ROWS, capture, "eager")
    coming = iter(backends)
    engine.add([runner.prepare(request) for request in REQUESTS])
    assert engine.step() == engine.step() == []
    runner.family.slot.swap_backend(next(coming))
    assert engine.step() == []
    assert runner.backend == "graphs"
    graphs = list(capture.captured)
    capture.seconds = lambda rows: rows / 2  # as if compiled networks took half the time
    runner.family.slot.swap_backend(next(coming))
    assert furthest(run(engine, []), expected) <= 1
    assert runner.backend == "inductor+graphs"
    assert furthest(run(engine, REQUESTS, join_every=2), expected) <= 1
    assert graphs == [3, 2, 1, 1, 1]  # the UNet's numbers of rows, then encoder and decoder
    assert capture.warmed_up == [3, 2, 1, 1]  # only compiled networks run beside the engine first, and no single row
    assert capture.captured == graphs + capture.warmed_up
    counters = backends.counters
    assert counters.replays > 0
    assert 0 < counters.compilations < len(graphs)  # one for several numbers of rows
    assert (counters.captures_in_step, counters.compilations_in_step, counters.failures) == (0, 0, 0)
    assert runner.stats()["captures"] == len(capture.captured)

    assert next(coming, None) is None
    captured_later = threading.Event()
    backends.request_capture(INDUCTOR, captured_later.set)
    assert captured_later.wait(30)


def test_size_that_comes_often_is_captured_later(checkpoints: Checkpoints, expected: dict[str, Pixels]) -> None:
    engine = make_engine(checkpoints("sd15"), max_rows=MAX_ROWS)
    runner = engine.runner
    assert isinstance(runner, Runner)
    backends = CudaBackends(unet_family_of(engine), MAX_ROWS, CallAgain(), "eager")
    runner.family.slot.swap_backend(next(iter(backends)))
    odd = REQUESTS[2:]
    for _ in range(1 + CALLS[GRAPHS] // 5):
        assert furthest(run(engine, odd), {"c": expected["c"]}) <= 1
    before = backends.counters.captures
    backends.serve_one()
    assert backends.counters.captures == before + 1
    fallbacks = backends.counters.fallbacks
    assert furthest(run(engine, odd), {"c": expected["c"]}) <= 1
    assert backends.counters.fallbacks == fallbacks + 1  # the decoder has not run often enough; the image is cached


@pytest.mark.parametrize(("factor", "expected"), [(0.9, True), (1.0, False), (1.1, False)])
def test_only_a_faster_network_replaces_a_captured_one(factor: float, expected: bool) -> None:
    inputs = (torch.zeros(1, 3),)
    limits = CaptureLimits((1, 2), 1, 1)
    before, graphed = (
        GraphedModule(torch.neg, torch.neg, CallAgain(seconds), limits, Counters(), list[object]().append)
        for seconds in (float, lambda rows: factor * rows)
    )
    graphed.capture(inputs)
    assert is_faster(graphed, before, inputs)  # which is not captured
    before.capture(inputs)
    assert is_faster(graphed, before, inputs) == expected


class Refuser(CallAgain):
    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        raise RuntimeError("operation not permitted")

    def capture(self, forward: Callable[[], torch.Tensor]) -> Graph:
        raise RuntimeError("operation not permitted")


def test_network_that_cannot_be_captured_stays_as_it_is(checkpoints: Checkpoints) -> None:
    backends = CudaBackends(load_unet_family(checkpoints("sd15")), 2, Refuser())
    assert list(backends) == []
    assert backends.counters.failures == 6  # each network once as it is and once compiled


def test_networks_that_are_not_kept_on_the_device_are_not_compiled(checkpoints: Checkpoints) -> None:
    checkpoint = load_checkpoint(str(checkpoints("sd15")), FAMILIES, device="cpu")
    add_hook_to_module(checkpoint.pipeline.unet, ModelHook())  # as `memory_efficient` does on CUDA
    family = StableDiffusion(checkpoint)
    assert not family.weights_stay_on_device
    assert list(cuda_backends(family, MAX_ROWS)) == []


def test_copy_without_loras_shares_the_weights_and_knows_no_switch(checkpoints: Checkpoints, tmp_path: Path) -> None:
    lora = build_lora(checkpoints("sd15"), tmp_path / "ink.safetensors", seed=1)
    plain = load_unet_family(checkpoints("sd15")).network
    adapted = load_unet_family(checkpoints("sd15"), loras={"ink": str(lora)})
    adapted.use_loras((("ink", 1.0),))
    bare = without_loras(adapted.network)
    inputs = adapted.example_inputs(2, (8, 8))
    with torch.inference_mode():
        assert torch.equal(bare(*inputs), plain(*inputs))
        assert not torch.equal(adapted.network(*inputs), plain(*inputs))
    addresses = {weight.data_ptr() for weight in adapted.network.parameters()}
    assert all(weight.data_ptr() in addresses for weight in bare.parameters())


def test_weights_of_the_copy_stay_where_they_are() -> None:
    network = torch.nn.Linear(2, 2)
    bare = without_loras(network)
    network.double()
    assert bare.weight.dtype == torch.float32


def test_inductor_compiles_once_for_all_numbers_of_rows_and_anew_for_another_size() -> None:
    counters = Counters()
    scale = compiled(lambda x: torch.nn.functional.silu(x) * 2, counters)
    for rows in (4, 2, 8, 5):
        x = torch.randn(rows, 4, 6)
        torch.testing.assert_close(scale(x), torch.nn.functional.silu(x) * 2)
    assert counters.compilations == 1
    scale(torch.randn(3, 4, 8))
    scale(torch.randn(7, 4, 8))
    assert counters.compilations == 2


def test_error_is_relative_and_not_a_number_is_none() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert relative_error(exact * 1.1, exact) == pytest.approx(0.1)
    assert np.isnan(relative_error(torch.tensor([3.0, torch.nan]), exact))
    assert np.isnan(relative_error(torch.tensor([3.0, torch.inf]), exact))
