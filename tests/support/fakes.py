"""A runner without networks for the engine's one seam. It breaks only where a test says so."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from deployments.engine.engine import Engine
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels, Priority
from deployments.engine.state import DenoiseState, StepBatch

STEP_S = 0.01  # whatever its rows, so that more of them always pay; a clock would measure the tests' gates
Trouble = Callable[[str, list[str]], None]  # gets the verb and the request ids; may raise, or block
Results = dict[str, tuple[int, Img2ImgOutput | Exception]]  # at which step each request ended, and how


def ask(request_id: str, *, steps: int = 3, guided: bool = False, size: int = 64, **more: Any) -> Img2ImgRequest:
    """A request of `steps` denoise steps and one row, two if guided."""
    scale = 7.5 if guided else 1.0
    pixels = np.zeros((size, size, 3), np.uint8)
    return Img2ImgRequest(request_id, pixels, "", strength=1.0, guidance_scale=scale, num_inference_steps=steps, **more)


def waiting(
    request_id: str, *, steps: int = 3, guided: bool = False, size: int = 64, priority: Priority = "interactive"
) -> DenoiseState:
    """The state of such a request, before it is encoded."""
    return FakeRunner().prepare(ask(request_id, steps=steps, guided=guided, size=size, priority=priority))


class FakeRunner:
    """Counts what is done to whom; the image of a request is the number of steps it was advanced."""

    def __init__(self, trouble: Trouble = lambda verb, ids: None, *, runs_ahead: bool = False) -> None:
        self.runs_ahead = runs_ahead
        self.backend = "fake"
        self.batches: list[list[str]] = []  # the requests that were advanced together, one entry a forward
        self.num_rows = 0
        self.encoded = Counter[str]()
        self.decoded = Counter[str]()
        self.times_memory_was_freed = 0
        self._completed: list[tuple[StepBatch, float]] = []
        self._trouble = trouble

    def prepare(self, request: Img2ImgRequest) -> DenoiseState:
        height, width = (side // 8 for side in request.pixels.shape[:2])
        table: Any = range(request.num_denoise_steps)  # the engine asks a table only for its length
        return DenoiseState(request, table, (height, width), request.guidance_scale > 1)

    def encode(self, states: list[DenoiseState]) -> None:
        self._trouble("encode", _ids(states))
        self.encoded.update(_ids(states))

    def denoise_step(self, batch: StepBatch) -> None:
        self._trouble("denoise", _ids(batch.states))
        self.batches.append(_ids(batch.states))
        self.num_rows += batch.num_rows
        for state in batch.states:
            state.step_index += 1
        self._completed.append((batch, STEP_S))

    def step_times(self) -> list[tuple[StepBatch, float]]:
        completed, self._completed = self._completed, []
        return completed

    def describe(self) -> dict[str, Any]:
        return {"form": self.backend}

    def image_size(self, shape: tuple[int, int]) -> tuple[int, int]:
        return shape[1] * 8, shape[0] * 8

    def stats(self) -> dict[str, int]:
        return {"unet_rows": self.num_rows}

    def decode(self, states: list[DenoiseState]) -> None:
        self._trouble("decode", _ids(states))
        self.decoded.update(_ids(states))

    def fetch(self, states: list[DenoiseState]) -> None:
        self._trouble("fetch", _ids(states))
        for state in states:
            state.pixels = np.full((1, 1, 3), state.step_index, np.uint8)

    def preview(self, state: DenoiseState) -> Pixels | None:
        return None if state.step_index == 0 else np.full((1, 1, 3), state.step_index, np.uint8)

    def free_memory(self) -> None:
        self.times_memory_was_freed += 1


def _ids(states: list[DenoiseState]) -> list[str]:
    return [state.request.request_id for state in states]


class Broken(Exception):
    """What a network raises for the one request that it cannot take."""


def drive(engine: Engine, *, first: int = 1) -> Results:
    """Step until nobody is here: at which step each request ended, and how. Nobody is advanced twice in a step."""
    results: Results = {}
    for number in itertools.count(first):
        if not engine.has_work:
            return results
        before = {state.request.request_id: state.step_index for state in engine.scheduler.running}
        finished = engine.step()
        for state in engine.scheduler.running:
            assert state.step_index <= before.get(state.request.request_id, 0) + 1
        for request_id, result in finished:
            assert request_id not in results
            results[request_id] = number, result
    raise AssertionError("unreachable")
