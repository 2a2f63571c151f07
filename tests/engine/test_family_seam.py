"""A family of models is one class: what it needs of the engine, and that the engine knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.networks import BackendSlot, Denoiser, Family, FixedBatch, ImageCodec
from deployments.engine.request import Img2ImgRequest, Loras, Sampler
from deployments.engine.runner import Runner
from deployments.engine.sampling import StepTable
from deployments.engine.state import DenoiseState, LatentShape
from tests.support.reference import load_unet_family, make_engine, run, smooth_image


# A toy family: a flow-matching denoiser of three lines. Nothing in the engine knows of it.
@dataclass(frozen=True)
class ToyCondition:
    gains: torch.Tensor  # (steps, 4)
    tilt: torch.Tensor  # (3, 3)

    @property
    def key(self) -> str:
        return "toy"

    def at(self, step: int) -> tuple[torch.Tensor, ...]:
        return self.gains[step], self.tilt


def toy_denoiser(latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """(rows, 4, h, w), gains (rows, 4) and tilts (rows, 3, 3) to (rows, 4, h, w), each row by itself."""
    gains, tilt = inputs
    assert (gains.shape, tilt.shape) == ((len(latents), 4), (len(latents), 3, 3))
    return torch.tanh(latents * gains[:, :, None, None] + tilt.sum((1, 2)).view(-1, 1, 1, 1))


@dataclass
class ToyFamily:
    codec: ImageCodec
    slot: BackendSlot
    denoiser: Denoiser = toy_denoiser
    name: str = "toy"
    size_multiple: int = 8
    guidance: Literal["cfg", "embedded"] = "cfg"
    device: torch.device = torch.device("cpu")

    def check(self, request: Img2ImgRequest) -> None:
        pass

    def table(self, sampler: Sampler, steps: int, denoise_steps: int, latent_shape: LatentShape) -> StepTable:
        """Euler's method along straight lines from noise to the image (Lipman et al. 2023)."""
        sigmas = np.linspace(1, 0, steps + 1, dtype=np.float32)[-denoise_steps - 1 :]
        before, kept = sigmas[:-1], sigmas[1:] / sigmas[:-1]
        one, zero = np.ones_like(before), np.zeros_like(before)
        coefficients = np.stack([one, one, -before, kept, 1 - kept, zero, zero], axis=1)
        return StepTable(np.stack([1 - sigmas, sigmas], axis=1), 1000 * before, coefficients)

    def use_loras(self, loras: Loras) -> None:
        assert not loras

    def condition(self, states: Sequence[DenoiseState]) -> None:
        for state in states:
            gains = torch.linspace(0.5, 1.5, 4 * len(state.table)).view(-1, 4)
            tilts = (-0.1, 0.1) if state.guided else (0.1,)
            state.conditions = [ToyCondition(gains, torch.full((3, 3), tilt)) for tilt in tilts]

    def describe(self) -> dict[str, Any]:
        return {"samplers": ["euler"]}

    def stats(self) -> dict[str, int]:
        return {}


class Mixed(ToyFamily):
    """Two families in one queue: requests for `euler_ancestral` are the toy's, all others those of `other`."""

    def __init__(self, other: Family) -> None:
        super().__init__(other.codec, other.slot, denoiser=self._denoise)
        self._other = other

    def _denoise(self, latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return (toy_denoiser if inputs[1].shape[1:] == (3, 3) else self._other.denoiser)(latents, *inputs)

    def table(self, sampler: Sampler, *shape: Any) -> StepTable:
        return super().table(sampler, *shape) if sampler == TOY else self._other.table(sampler, *shape)

    def condition(self, states: Sequence[DenoiseState]) -> None:
        super().condition([state for state in states if state.request.sampler == TOY])
        self._other.condition([state for state in states if state.request.sampler != TOY])


CHECKPOINTS = Callable[[str], Path]
TOY: Sampler = "euler_ancestral"
REQUESTS = [
    Img2ImgRequest("sd guided", smooth_image(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("toy guided", smooth_image(2, 64, 64), "a cat", None, 0.8, 4.0, 10, 4, TOY),
    Img2ImgRequest("sd", smooth_image(3, 64, 64), "castles", None, 0.5, 0.0, 8, 5, "euler"),
    Img2ImgRequest("toy", smooth_image(4, 64, 64), "castles", None, 0.6, 0.0, 9, 6, TOY),
    Img2ImgRequest("toy large", smooth_image(5, 80, 72), "castles", None, 0.6, 3.0, 9, 7, TOY),
]


@pytest.fixture(scope="module")
def sd15(checkpoints: CHECKPOINTS) -> Family:
    return load_unet_family(checkpoints("sd15"), reproducible=True)


@pytest.fixture(scope="module")
def toy(sd15: Family) -> ToyFamily:
    return ToyFamily(sd15.codec, sd15.slot)


def engine_of(family: Family) -> Engine:
    return Engine(Runner(family), max_rows=8)


@pytest.mark.parametrize("join_every", [0, 1, 2])
def test_a_toy_family_shares_one_queue_with_sd15_and_is_bitwise_right(
    join_every: int, sd15: Family, toy: ToyFamily, checkpoints: CHECKPOINTS
) -> None:
    mixed = run(engine_of(Mixed(sd15)), REQUESTS, join_every=join_every)
    plain = make_engine(checkpoints("sd15"), reproducible=True)
    for request in REQUESTS:
        engine = engine_of(toy) if request.sampler == TOY else plain
        assert np.array_equal(mixed[request.request_id], run(engine, [request])[request.request_id])


def test_a_toy_image_is_what_its_denoiser_makes_of_it(toy: ToyFamily) -> None:
    request = replace(REQUESTS[3], num_inference_steps=2, strength=0.5)  # one step, to the denoised latents
    runner = Runner(toy)
    state = runner.prepare(request)
    runner.encode([state])
    assert state.latents is not None
    with torch.inference_mode():
        velocity = toy_denoiser(state.latents[None], *(x[None] for x in state.conditions[0].at(0)))
        (fetch,) = toy.codec.decode(state.latents - 0.5 * velocity)
        image = run(Engine(runner, max_rows=8), [request])["toy"]
        assert np.abs(image.astype(int) - fetch()).max() <= 1


def test_a_toy_family_describes_itself(toy: ToyFamily) -> None:
    assert engine_of(toy).describe()["family"] == "toy"


def test_requests_with_other_keys_never_share_a_forward(sd15: Family) -> None:
    engine = engine_of(Mixed(sd15))
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
