"""Turns batches of request states into calls of one checkpoint's networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from itertools import groupby
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from deployments.engine.errors import InvalidRequest, OutOfMemory
from deployments.engine.networks import Family
from deployments.engine.request import MASK_THRESHOLD, Img2ImgRequest, Pixels
from deployments.engine.sampling import CIN, affine_step, guide
from deployments.engine.state import DenoiseState, LatentShape, StepBatch, by_shape
from deployments.engine.transfers import StepPipeline, is_out_of_memory, one_thread, to_device

P = ParamSpec("P")
T = TypeVar("T")


def _on_device(method: Callable[Concatenate[Runner, P], T]) -> Callable[Concatenate[Runner, P], T]:
    """Without gradients, and with the device to itself. Raises OutOfMemory for what torch raises."""

    @wraps(method)
    def run(runner: Runner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with runner.device_lock(), torch.inference_mode():
                return method(runner, *args, **kwargs)
        except Exception as exc:
            if is_out_of_memory(exc):
                raise OutOfMemory(str(exc)) from exc
            raise

    return run


class Runner:
    """encode, denoise_step, decode and fetch for any mix of requests. `device_lock` keeps others off the device."""

    def __init__(
        self, family: Family, *, device_lock: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self.family = family
        self.device_lock = device_lock
        self._codec = family.codec
        self._device = family.device
        self._pipeline: StepPipeline[StepBatch] = StepPipeline(family.device)
        self._num_rows = 0

    @property
    def runs_ahead(self) -> bool:
        """Whether the host only submits work, and can submit more while the device computes."""
        return self._device.type == "cuda"

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self.family.slot.backend.name

    def describe(self) -> dict[str, Any]:
        """The checkpoint and how it runs."""
        family = self.family
        return {"family": family.name, **family.describe(), "form": self.backend, "compiling": family.slot.compiling}

    def image_size(self, shape: LatentShape) -> tuple[int, int]:
        """Width and height in pixels of images of this latent shape."""
        height, width = shape
        return width * self._codec.factor, height * self._codec.factor

    def stats(self) -> dict[str, int]:
        """Counters since the start (rows without padding, caches, captures), and the GPU memory this process holds."""
        memory = torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0
        counters = {**self.family.stats(), **self.family.slot.backend.counters()}
        return {"unet_rows": self._num_rows, "gpu_memory_bytes": memory, **counters}

    def prepare(self, request: Img2ImgRequest) -> DenoiseState:
        """The request's step table and empty state. Thread-safe, and takes milliseconds. Raises InvalidRequest."""
        family, factor = self.family, self._codec.factor
        height, width = request.pixels.shape[:2]
        if height % family.size_multiple or width % family.size_multiple:
            raise InvalidRequest(f"image: {width}x{height} is not a multiple of {family.size_multiple}", "image")
        if request.num_denoise_steps < 1:
            raise InvalidRequest("strength leaves no step to run", "strength")
        if request.mask is not None and request.mask[::factor, ::factor].max() < MASK_THRESHOLD:
            raise InvalidRequest(f"mask: nothing in it is to change: it is finer than {factor} pixels", "mask")
        family.check(request)
        shape = height // factor, width // factor
        table = family.table(request.sampler, request.num_inference_steps, request.num_denoise_steps, shape)
        guided = request.guidance_scale > 1 and family.guidance == "cfg"
        return DenoiseState(request, table, shape, guided, self._codec.image_key(request.pixels))

    @_on_device
    def encode(self, states: list[DenoiseState]) -> None:
        """Start latents, then prompts: images keep a GPU busy while the host tokenizes."""
        for alike in by_shape(states):
            self._codec.encode(alike)
        self.family.condition(states)

    @_on_device
    def denoise_step(self, batch: StepBatch) -> None:
        """Advance every state by one step. Nothing has changed if it raises, so that it can be tried again."""
        started = self._pipeline.now()
        self.family.use_loras(batch.states[0].request.loras)
        with one_thread(self.family.slot.backend.owns_threads):
            # A backend that runs two rows at a time may run an odd last row otherwise: never a guided request's.
            self._advance(sorted(batch.states, key=lambda state: not state.guided), batch.max_rows)
        self._pipeline.submit(batch, started)

    def _advance(self, states: list[DenoiseState], max_rows: int) -> None:
        coefficients, scale = self._numbers(states)
        latents = torch.stack([_encoded(state.latents) for state in states])
        inputs = coefficients[:, CIN].view(-1, 1, 1, 1) * latents
        num_guided = sum(state.guided for state in states)
        outputs = self._forward(states, torch.cat([inputs[:num_guided], inputs]), max_rows)
        history = torch.stack([_encoded(state.history) for state in states])
        guided = guide(outputs, num_guided, scale)
        stepped, denoised = affine_step(latents, guided, history, self._noise(states), coefficients)
        for i, state in enumerate(states):
            if state.source is not None:
                stepped[i] = state.source.blend(stepped[i], *state.table.alpha_sigma[state.step_index + 1].tolist())
        for i, state in enumerate(states):
            state.latents, state.history, state.noise = stepped[i], denoised[i], None
            state.step_index += 1
        self._num_rows += len(outputs)

    def _forward(self, states: list[DenoiseState], latents: torch.Tensor, max_rows: int) -> torch.Tensor:
        """The denoiser's output for the guided states' unconditional rows, then for all conditional rows."""
        conditions = [(state, state.conditions[0]) for state in states if state.guided]
        conditions += [(state, state.conditions[-1]) for state in states]
        outputs, start = [], 0
        for _, alike in groupby(conditions, key=lambda row: row[1].key):
            rows = [condition.at(state.step_index) for state, condition in alike]
            for chunk in (rows[first : first + max_rows] for first in range(0, len(rows), max_rows)):
                inputs = [torch.stack(column) for column in zip(*chunk, strict=True)]
                outputs.append(self.family.denoiser(latents[start : start + len(chunk)], *inputs))
                start += len(chunk)
        return torch.cat(outputs)

    def step_times(self) -> list[tuple[StepBatch, float]]:
        """The steps that the device has completed since the last call, and the seconds each took.

        On CUDA a step is found completed when the next is submitted, and so the last one may never be.
        """
        return self._pipeline.completed()

    def _numbers(self, states: list[DenoiseState]) -> tuple[torch.Tensor, torch.Tensor]:
        """This step's coefficients (requests, 7) and guidance scales (requests,), in one transfer."""
        rows = [(*state.table.coefficients[state.step_index], state.request.guidance_scale) for state in states]
        numbers = to_device(torch.from_numpy(np.array(rows, dtype=np.float32)), self._device)
        return numbers[:, :-1], numbers[:, -1]

    def _noise(self, states: list[DenoiseState]) -> torch.Tensor | None:
        """What the step adds, (requests, channels, h, w); None if that is nothing."""
        noisy = [state for state in states if state.table.needs_noise(state.step_index)]
        for state in noisy:
            if state.noise is None:  # a step that is tried again keeps its draw
                state.noise = self._codec.draw_noise(state)
        zeros = torch.zeros_like(_encoded(states[0].latents))
        return torch.stack([zeros if state.noise is None else state.noise for state in states]) if noisy else None

    @_on_device
    def decode(self, states: list[DenoiseState]) -> None:
        """Begin to decode denoised states of one shape."""
        latents = torch.stack([_encoded(state.latents) for state in states])
        for state, fetch in zip(states, self._codec.decode(latents), strict=True):
            state.fetch = fetch

    @_on_device
    def fetch(self, states: list[DenoiseState]) -> None:
        """Fill `pixels` of states that are being decoded. Raises NumericalError rather than give a black image."""
        for state in states:
            assert state.fetch is not None, "decode() comes before fetch()"
            state.pixels = state.fetch()

    @_on_device
    def preview(self, state: DenoiseState) -> Pixels | None:
        """The image that the last step expects in the end, (h, w, 3) of the latents; None before the first step."""
        if state.step_index == 0 or state.history is None:
            return None
        expected = state.history
        if state.source is not None:
            expected = state.source.blend(expected, *state.table.alpha_sigma[-1].tolist())
        return self._codec.preview(expected)

    @_on_device
    def free_memory(self) -> None:
        """Give cached blocks back to the device after it ran out."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _encoded(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "encode() comes before denoise_step() and decode()"
    return tensor
