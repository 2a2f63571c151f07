"""What failed is tried again with real networks, and gives the same bytes as if nothing had happened."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from deployments.engine.engine import Engine
from deployments.engine.errors import InvalidRequest, NumericalError
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from tests.support.fakes import Broken, drive
from tests.support.reference import make_runner, run, smooth_image

FOUR = [
    Img2ImgRequest("ancestral", smooth_image(1, 64, 64), "a cat", None, 0.8, 7.5, 6, 1, "euler_ancestral"),
    Img2ImgRequest("noisy too", smooth_image(2, 64, 64), "castles", None, 1.0, 1.0, 5, 2, "euler_ancestral"),
    Img2ImgRequest("distilled", smooth_image(3, 64, 64), "picasso", None, 1.0, 1.0, 4, 3, "lcm"),
    Img2ImgRequest("plain", smooth_image(4, 64, 64), "a studio", None, 0.5, 5.0, 8, 4, "dpmpp_2m"),
]


@pytest.fixture(scope="module")
def runner(checkpoints: Callable[[str], Path]) -> Runner:
    return make_runner(checkpoints("sd15"), reproducible=True)


@pytest.fixture(scope="module")
def undisturbed(runner: Runner) -> dict[str, bytes]:
    return as_bytes(run(Engine(runner, max_rows=8), FOUR))


def as_bytes(images: dict[str, Pixels]) -> dict[str, bytes]:
    return {request_id: pixels.tobytes() for request_id, pixels in images.items()}


@contextmanager
def unet_that_raises(runner: Runner, error: Exception, when: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    def hook(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if when(inputs[0]):
            raise error

    assert isinstance(runner.family, StableDiffusion)
    handle = runner.family.network.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), Broken("once")], ids=["out of memory", "broken"])
@pytest.mark.parametrize("call", [0, 1, 8])
def test_step_that_is_tried_again_gives_the_same_bytes(
    error: Exception, call: int, runner: Runner, undisturbed: dict[str, bytes]
) -> None:
    calls = itertools.count()
    with unet_that_raises(runner, error, lambda _: next(calls) == call):
        images = run(Engine(runner, max_rows=8), FOUR)
    assert as_bytes(images) == undisturbed


class FailingDraws(TorchFunctionMode):
    """The torch.randn calls of these numbers (from 0) find no memory, after others have drawn already."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__()
        self._calls = calls
        self.numbers: Iterator[int] = itertools.count()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.randn and next(self.numbers) in self._calls:
            raise MemoryError
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("draw", [9, 10])
def test_noise_of_a_step_that_is_tried_again_is_not_drawn_twice(
    draw: int, runner: Runner, undisturbed: dict[str, bytes]
) -> None:
    engine = Engine(runner, max_rows=8)
    with FailingDraws({draw}):  # the first 8 start the four: one for the VAE's posterior and one for the noise each
        images = run(engine, FOUR)
    assert engine.stats()["out_of_memory"] == 1
    assert as_bytes(images) == undisturbed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_end_their_own_request_only(
    value: float, runner: Runner, undisturbed: dict[str, bytes]
) -> None:
    engine = Engine(runner, max_rows=8)
    engine.add(engine.runner.prepare(request) for request in FOUR)
    engine.step()
    poisoned = next(state for state in engine.scheduler.running if state.request.request_id == "ancestral")
    poisoned.latents = torch.full_like(poisoned.latents, value)
    results = {request_id: result for request_id, (_, result) in drive(engine).items()}
    assert isinstance(results.pop("ancestral"), NumericalError)
    for request_id, result in results.items():
        assert isinstance(result, Img2ImgOutput)
        assert result.pixels.tobytes() == undisturbed[request_id]


def test_guided_request_survives_memory_for_one_row_only(checkpoints: Callable[[str], Path]) -> None:
    runner = make_runner(checkpoints("sd15"))
    (whole,) = run(Engine(runner, max_rows=8), FOUR[:1]).values()
    with unet_that_raises(runner, torch.OutOfMemoryError(), lambda latents: len(latents) > 1):
        (by_rows,) = run(Engine(runner, max_rows=8), FOUR[:1]).values()
    assert np.abs(by_rows.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"sampler": "plms"}, "sampler"),
        ({"pixels": np.zeros((64, 60, 3), np.uint8)}, "image"),
        ({"strength": 0.04, "num_inference_steps": 20}, "strength"),
        ({"num_inference_steps": 51, "sampler": "lcm"}, "num_inference_steps"),
    ],
)
def test_request_the_model_cannot_do_is_refused_by_field(change: dict[str, Any], param: str, runner: Runner) -> None:
    settings: dict[str, Any] = {"request_id": "x", "pixels": smooth_image(1, 64, 64), "prompt": "", "strength": 1.0}
    with pytest.raises(InvalidRequest) as caught:
        runner.prepare(Img2ImgRequest(**settings | change))
    assert caught.value.param == param
