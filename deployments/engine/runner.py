"""Runs one checkpoint's networks on batches of requests. The only module that turns request state into UNet calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import wraps
from itertools import groupby
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch

from deployments.engine.accel.cuda.device_lock import DEVICE
from deployments.engine.errors import InvalidRequest
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.conditioning import Conditioner
from deployments.engine.models.devices import one_thread
from deployments.engine.models.preview import LatentColours
from deployments.engine.models.vae import ImageCodec, picture_key
from deployments.engine.networks import Networks, UnetForward, eager
from deployments.engine.request import Img2ImgRequest, Loras, Pixels
from deployments.engine.sampling import CIN, SAMPLERS, Samplers, affine_step, guide
from deployments.engine.state import DenoiseState, KeptSource
from deployments.engine.transfers import Pace, to_device

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class _Row(NamedTuple):
    """What steers one row of a UNet call."""

    context: torch.Tensor
    times: torch.Tensor


def _on_device(method: Callable[P, T]) -> Callable[P, T]:
    """Without gradients, and not while graphs are recorded."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with DEVICE.step(), torch.inference_mode():
            return method(*args, **kwargs)

    return run


MASK_THRESHOLD = 128  # of 255
REPRODUCIBLE_ROWS = {"cpu": 2, "mps": 2, "cuda": 8}  # of every UNet call in reproducible mode


class Runner:
    """encode, denoise_step, decode and collect for any mixture of requests of one checkpoint.

    `reproducible` runs every network at one fixed batch shape, so that a result is the same to the bit whatever
    else is in the batch. `unet_rows` counts the rows forwarded for requests, without padding; `compiling` says that
    another form of the networks is being made.
    """

    def __init__(self, checkpoint: Checkpoint, *, reproducible: bool = False) -> None:
        pipeline = checkpoint.pipeline
        self.checkpoint = checkpoint
        self.reproducible = reproducible
        self.device = checkpoint.device
        self.samplers = Samplers(pipeline.scheduler.config)
        self.conditioner = Conditioner(checkpoint, one_by_one=reproducible)
        self.codec = ImageCodec(
            pipeline.vae, device=checkpoint.device, dtypes=checkpoint.vae_dtypes, one_by_one=reproducible
        )
        self.unet_rows = 0
        self.compiling = False
        self._adapters = checkpoint.adapters
        self._colours: LatentColours | None = None
        self._eager = self._networks = eager(checkpoint)
        self._offered: Networks | None = None
        self._pace: Pace[list[DenoiseState]] = Pace(self.device)

    @property
    def runs_ahead(self) -> bool:
        """Whether the host only hands work over, and can do so with more while the device computes."""
        return self.device.type == "cuda"

    @property
    def form(self) -> str:
        """That of the networks in use."""
        return self._networks.form

    def form_counters(self) -> dict[str, int]:
        """What the form in use has recorded, replayed and compiled since it was made; see graphs.Counters."""
        return asdict(self._networks.counters) if self._networks.counters else {}

    def offer(self, networks: Networks) -> None:
        """Run these from the next step on. From any thread."""
        self._offered = networks

    def _take_offer(self) -> None:
        if self._offered is not None:
            self._networks, self._offered = self._offered, None
            self.codec.networks = self._networks.vae
            logger.info("the networks run as %s now", self.form)

    def prepare(self, request: Img2ImgRequest) -> DenoiseState:
        """The request's step table and empty state. Thread-safe, and takes milliseconds. Raises InvalidRequest."""
        if request.sampler not in SAMPLERS:
            raise InvalidRequest(f"sampler must be one of {', '.join(SAMPLERS)}", "sampler")
        height, width = request.pixels.shape[:2]
        factor = self.codec.factor
        if height % factor or width % factor:
            raise InvalidRequest(f"image: {width}x{height} is not a multiple of {factor}", "image")
        if request.num_denoise_steps < 1:
            raise InvalidRequest("strength leaves no step to run", "strength")
        self._adapters.check(request.loras)
        table = self.samplers.table(request.sampler, request.num_inference_steps, request.num_denoise_steps)
        guided = request.guidance_scale > 1 and not self.conditioner.distilled
        # Here, on the caller's thread, where the engine's goes on meanwhile.
        key = picture_key(request.pixels)
        return DenoiseState(request, table, (height // factor, width // factor), guided, key)

    @_on_device
    def encode(self, states: list[DenoiseState]) -> None:
        """Prompt embeddings and noised start latents; draws in diffusers' order: VAE posterior, then noise."""
        self._take_offer()
        for _, group in groupby(sorted(states, key=_shape), key=_shape):  # first: it keeps a GPU busy with the rest
            alike = list(group)
            moments = self.codec.encode(
                [state.request.pixels for state in alike], [state.picture_key for state in alike]
            )
            for state, moment in zip(alike, moments, strict=True):
                self._start(state, moment)
        for loras, group in groupby(sorted(states, key=_loras), key=_loras):
            self._adapters.use(loras)
            self.conditioner.fill(list(group), loras)

    def _start(self, state: DenoiseState, moments: torch.Tensor) -> None:
        state.generator = torch.Generator("cpu").manual_seed(state.request.seed)
        image = self.codec.sample(moments, state.generator).to(self.checkpoint.dtype)
        noise = self._draw(state.generator, image.shape)
        signal, noise_scale = state.table.levels[0].tolist()
        state.latents = signal * image.float() + noise_scale * noise
        state.history = torch.zeros_like(state.latents)
        if state.request.mask is not None:
            state.kept = KeptSource(image.float(), noise, self._latent_mask(state))

    def _latent_mask(self, state: DenoiseState) -> torch.Tensor:
        """(1, h, w), 1 where the picture may change; made smaller as diffusers' inpainting pipelines do it."""
        mask = torch.from_numpy(np.asarray(state.request.mask) >= MASK_THRESHOLD).float()[None, None]
        return to_device(torch.nn.functional.interpolate(mask, state.latent_shape)[0], self.device)

    def _draw(self, generator: torch.Generator, shape: torch.Size) -> torch.Tensor:
        """Noise as diffusers draws it: on the CPU, in the model's format."""
        noise = torch.randn((1, *shape), generator=generator, dtype=self.checkpoint.dtype)
        return to_device(noise[0], self.device).float()

    @_on_device
    def denoise_step(self, states: list[DenoiseState], max_rows: int) -> None:
        """Advance every state by one step. Nothing has changed if it raises, so that it can be tried again."""
        self._take_offer()
        started = self._pace.now()
        loras = states[0].request.loras
        self._adapters.use(loras)
        networks = self._eager if loras else self._networks
        with one_thread(networks.own_threads):
            self._advance(sorted(states, key=_guided_first), networks.unet, max_rows)
        self._pace.step_done(states, started)

    def _advance(self, states: list[DenoiseState], unet: UnetForward, max_rows: int) -> None:
        coefficients, scale = self._numbers(states)
        owners, uncond, cond = self._indices(states)
        latents = torch.stack([_known(state.latents) for state in states])
        inputs = coefficients[:, CIN].view(-1, 1, 1, 1) * latents
        outputs = torch.cat(list(self._forward(unet, states, inputs[owners], max_rows)))
        guided = guide(outputs, uncond, cond, scale)
        history = torch.stack([_known(state.history) for state in states])
        stepped, denoised = affine_step(latents, guided, history, self._noise(states), coefficients)
        for i, state in enumerate(states):
            if state.kept is not None:
                stepped[i] = state.kept.put_back(stepped[i], *state.table.levels[state.step_index + 1].tolist())
        for i, state in enumerate(states):
            state.latents, state.history, state.noise = stepped[i], denoised[i], None
            state.step_index += 1
        self.unet_rows += len(outputs)

    def step_times(self) -> list[tuple[list[DenoiseState], float]]:
        """The steps that the device has done since this was asked last, and the seconds each took.

        On CUDA a step is found done when the next is under way, and so the last one may never be.
        """
        return self._pace.timed()

    def _numbers(self, states: list[DenoiseState]) -> tuple[torch.Tensor, torch.Tensor]:
        """This step's coefficients (requests, 7) and guidance scales (requests,), in one transfer."""
        rows = [(*state.table.coefficients[state.step_index], state.request.guidance_scale) for state in states]
        numbers = to_device(torch.from_numpy(np.array(rows, dtype=np.float32)), self.device)
        return numbers[:, :-1], numbers[:, -1]

    def _indices(self, states: list[DenoiseState]) -> list[torch.Tensor]:
        """Whose latents each row takes, (rows,); each request's unconditional and conditional row, (requests,)."""
        counts = np.array([state.rows for state in states])
        cond = counts.cumsum() - 1  # a request's last row is the conditional
        parts = [np.arange(len(states)).repeat(counts), cond - np.array([state.guided for state in states]), cond]
        indices = to_device(torch.from_numpy(np.concatenate(parts)), self.device)
        return list(torch.split(indices, [len(part) for part in parts]))

    def _noise(self, states: list[DenoiseState]) -> torch.Tensor | None:
        """What the step adds, (requests, channels, h, w); None if that is nothing."""
        if not any(state.table.needs_noise(state.step_index) for state in states):
            return None
        for state in states:
            if state.noise is None:  # a step that is tried again keeps its draw
                latents = _known(state.latents)
                assert state.generator is not None, "encode() comes before denoise_step()"
                needed = state.table.needs_noise(state.step_index)
                state.noise = self._draw(state.generator, latents.shape) if needed else torch.zeros_like(latents)
        return torch.stack([_known(state.noise) for state in states])

    def _forward(
        self, unet: UnetForward, states: list[DenoiseState], inputs: torch.Tensor, max_rows: int
    ) -> Iterator[torch.Tensor]:
        """UNet outputs, float32, for each row: a request's unconditional row (if guided), then its conditional."""
        rows = [
            _Row(condition.context, times[state.step_index])
            for state in states
            for condition, times in zip(state.conditions, state.times, strict=True)
        ]
        size = REPRODUCIBLE_ROWS[self.device.type] if self.reproducible else max_rows
        for start in range(0, len(rows), size):
            chunk, latents = rows[start : start + size], inputs[start : start + size]
            wanted = len(chunk)
            if self.reproducible:
                padding = size - wanted
                chunk = chunk + [chunk[-1]] * padding
                latents = torch.cat([latents, latents[-1:].expand(padding, -1, -1, -1)])
            output = unet(
                latents.to(self.checkpoint.dtype),
                torch.stack([row.times for row in chunk]),
                torch.stack([row.context for row in chunk]),
            )
            yield output[:wanted].float()

    @_on_device
    def decode(self, states: list[DenoiseState]) -> None:
        """Begin to decode denoised states of one shape."""
        latents = torch.stack([_known(state.latents) for state in states])
        for state, decoded in zip(states, self.codec.decode(latents), strict=True):
            state.decoded = decoded

    @_on_device
    def collect(self, states: list[DenoiseState]) -> None:
        """Fill `pixels` of states that are being decoded. Raises NumericalError rather than give a black image."""
        for state in states:
            assert state.decoded is not None, "decode() comes before collect()"
            state.pixels = state.decoded.pixels()

    @_on_device
    def preview(self, state: DenoiseState) -> Pixels | None:
        """The picture that the last step expects in the end, (h, w, 3) of the latents; None before the first step."""
        if state.step_index == 0 or state.history is None:
            return None
        if self._colours is None:  # only where somebody watches
            self._colours = LatentColours(self.codec)
        expected = state.history
        if state.kept is not None:
            expected = state.kept.put_back(expected, *state.table.levels[-1].tolist())
        return self._colours(expected)

    def reserved_memory(self) -> int:
        """Bytes that this process holds of the GPU."""
        return torch.cuda.memory_reserved() if self.device.type == "cuda" else 0

    def free_memory(self) -> None:
        """Give cached blocks back to the device after it ran out."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _shape(state: DenoiseState) -> tuple[int, int]:
    return state.latent_shape


def _loras(state: DenoiseState) -> Loras:
    return state.request.loras


def _guided_first(state: DenoiseState) -> bool:
    """So that the row left over by networks that take two at a time is no guided request's."""
    return not state.guided


def _known(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "encode() comes before denoise_step() and decode()"
    return tensor
