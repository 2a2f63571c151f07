"""A family of models is one class: what it needs of the engine, and that the engine knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.models.families import load_family
from deployments.engine.networks import Denoiser, FixedBatch
from deployments.engine.request import Img2ImgRequest
from deployments.engine.runner import Runner
from deployments.engine.state import DenoiseState
from tests.support.reference import make_engine, run, smooth_image

TOY = "toy:"  # prompts that begin so


# A toy family: requests whose prompt begins with TOY run on a denoiser of its own, whose inputs and key are its own;
# all others run on the family that it wraps.
@dataclass(frozen=True)
class ToyCondition:
    gains: torch.Tensor  # (steps, 4)
    tilt: torch.Tensor  # (3, 3)

    @property
    def key(self) -> str:
        return "toy"

    def at(self, step: int) -> tuple[torch.Tensor, ...]:
        return self.gains[step], self.tilt


def toy_denoiser(latents: torch.Tensor, gains: torch.Tensor, tilt: torch.Tensor) -> torch.Tensor:
    """(rows, 4, h, w), (rows, 4) and (rows, 3, 3) to (rows, 4, h, w), each row by itself."""
    assert gains.shape == (len(latents), 4)
    assert tilt.shape == (len(latents), 3, 3)
    return torch.tanh(latents * gains[:, :, None, None] + tilt.sum((1, 2)).view(-1, 1, 1, 1))


class ToyFamily:
    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    @property
    def denoiser(self) -> Denoiser:
        def denoise(latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
            network = toy_denoiser if inputs[1].shape[1:] == (3, 3) else self._base.denoiser
            return network(latents, *inputs)

        return denoise

    def condition(self, states: Sequence[DenoiseState]) -> None:
        toys = [state for state in states if state.request.prompt.startswith(TOY)]
        self._base.condition([state for state in states if state not in toys])
        for state in toys:
            gains = torch.linspace(0.5, 1.5, 4 * len(state.table)).view(-1, 4)
            tilts = [torch.full((3, 3), tilt) for tilt in ((-0.1, 0.1) if state.guided else (0.1,))]
            state.conditions = [ToyCondition(gains, tilt) for tilt in tilts]


CHECKPOINTS = Callable[[str], Path]
REQUESTS = [
    Img2ImgRequest("sd guided", smooth_image(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("toy guided", smooth_image(2, 64, 64), "toy: a cat", None, 0.8, 4.0, 10, 4, "euler_ancestral"),
    Img2ImgRequest("sd", smooth_image(3, 64, 64), "castles", None, 0.5, 0.0, 8, 5, "euler"),
    Img2ImgRequest("toy", smooth_image(4, 64, 64), "toy: castles", None, 0.6, 0.0, 9, 6, "ddim"),
    Img2ImgRequest("toy large", smooth_image(5, 80, 72), "toy: castles", None, 0.6, 3.0, 9, 7, "dpmpp_2m"),
]


@pytest.fixture(scope="module")
def toy_engine(checkpoints: CHECKPOINTS) -> Engine:
    base = load_family(str(checkpoints("sd15")), device="cpu", dtype="float32", reproducible=True)
    return Engine(Runner(ToyFamily(base)), max_rows=8)  # type: ignore[arg-type]


@pytest.mark.parametrize("join_every", [0, 1, 2])
def test_a_toy_family_shares_one_queue_with_sd15_and_is_bitwise_right(
    join_every: int, toy_engine: Engine, checkpoints: CHECKPOINTS
) -> None:
    mixed = run(toy_engine, REQUESTS, join_every=join_every)
    plain = make_engine(checkpoints("sd15"), reproducible=True)
    for request in REQUESTS:
        engine = toy_engine if request.prompt.startswith(TOY) else plain
        assert np.array_equal(mixed[request.request_id], run(engine, [request])[request.request_id])


def test_a_toy_image_is_what_its_denoiser_makes_of_it(toy_engine: Engine) -> None:
    request = replace(REQUESTS[3], num_inference_steps=2, strength=0.5)  # one step of DDIM, to the denoised latents
    state = toy_engine.runner.prepare(request)
    toy_engine.runner.encode([state])
    assert state.latents is not None
    with torch.inference_mode():
        output = toy_denoiser(state.latents[None], *(x[None] for x in state.conditions[0].at(0)))[0]
        _, p, q, a, b, _, _ = state.table.coefficients[0].tolist()
        expected = a * state.latents + b * (p * state.latents + q * output)
        runner = toy_engine.runner
        assert isinstance(runner, Runner)
        (fetch,) = runner.family.codec.decode(expected[None])
        image = run(toy_engine, [request])["toy"]
        assert np.abs(image.astype(int) - fetch()).max() <= 1


def test_requests_with_other_keys_never_share_a_forward(toy_engine: Engine) -> None:
    engine = toy_engine
    engine.add([engine.runner.prepare(request) for request in REQUESTS])
    while engine.has_work:
        engine.scheduler.admit()
        engine.step()
        batch = engine.scheduler.select()
        assert batch is None or len({state.batch_key for state in batch.states}) == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_a_fixed_batch_calls_its_denoiser_with_one_number_of_rows(rows: int) -> None:
    seen = []

    def denoiser(latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        seen.append((len(latents), *map(len, inputs)))
        return latents + inputs[0].view(-1, 1, 1, 1)

    latents, offsets = torch.randn(rows, 4, 2, 2), torch.arange(float(rows))
    assert torch.equal(FixedBatch(denoiser, 3)(latents, offsets), latents + offsets.view(-1, 1, 1, 1))
    assert set(seen) == {(3, 3)}
    assert len(seen) == -(-rows // 3)
