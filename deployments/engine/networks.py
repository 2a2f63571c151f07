"""The seam between the core and a checkpoint: what a model family provides, and which backend runs its networks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import nn

from deployments.engine.request import Img2ImgRequest, Loras, Pixels, Sampler
from deployments.engine.sampling import StepTable
from deployments.engine.state import DenoiseState, LatentShape

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


class Denoiser(Protocol):
    """The network of a step. Rows never touch each other; dtype, packing and patching are its own affair."""

    def __call__(self, latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Latents (rows, c, h, w), float32, and the row conditions' inputs (rows, ...) to the output, like latents."""


class ImageCodec(Protocol):
    """Images to start latents, and denoised latents to images. `factor` is the pixels of a latent's side."""

    factor: int

    def image_key(self, image: Pixels) -> bytes:
        """What tells this image from all others; computed on the caller's thread."""

    def encode(self, states: Sequence[DenoiseState]) -> None:
        """Set `latents`, `history`, `generator` and `source` of states of one latent shape."""

    def draw_noise(self, state: DenoiseState) -> torch.Tensor:
        """The noise of a step, (channels, h, w) float32, from the request's generator."""

    def decode(self, latents: torch.Tensor) -> list[Callable[[], Pixels]]:
        """For each row of (n, channels, h, w) what waits for its image; raises NumericalError for NaN."""

    def preview(self, latents: torch.Tensor) -> Pixels:
        """What latents (channels, h, w) look like: (h, w, 3)."""


class Family(Protocol):
    """Everything that differs between kinds of checkpoints, as the core needs it.

    `size_multiple` is what both sides of an image are padded to. `guidance` is "cfg" where a guided request takes two
    rows, "embedded" where the guidance scale is an input of the denoiser. `denoiser` is the one in use now.
    """

    size_multiple: int
    guidance: Literal["cfg", "embedded"]
    device: torch.device
    slot: BackendSlot

    @property
    def name(self) -> str: ...
    @property
    def codec(self) -> ImageCodec: ...
    @property
    def denoiser(self) -> Denoiser: ...

    def check(self, request: Img2ImgRequest) -> None:
        """Raises InvalidRequest for what this checkpoint cannot do."""

    def table(self, sampler: Sampler, steps: int, denoise_steps: int, latent_shape: LatentShape) -> StepTable:
        """The last `denoise_steps` of `steps`. Raises InvalidRequest."""

    def use_loras(self, loras: Loras) -> None:
        """Make these LoRAs, and no others, part of all forwards from now on."""

    def condition(self, states: Sequence[DenoiseState]) -> None:
        """Encode the prompts of all states together; set their `conditions` and `truncated`."""

    def describe(self) -> dict[str, Any]:
        """What the loaded checkpoint is, for people and `GET /v1/models`."""

    def stats(self) -> dict[str, int]:
        """Hits and misses of its caches."""


class CompilableFamily(Family, Protocol):
    """A family whose networks the backends of accel/ can compile.

    `network` is the denoiser's module, in `dtype`; `vae` is a diffusers VAE, `vae_dtypes` are its encoder's and its
    decoder's. `native_shape` is the latents' height and width that the checkpoint was trained for.
    """

    reproducible: bool
    weights_stay_on_device: bool
    dtype: torch.dtype
    vae: nn.Module
    vae_dtypes: tuple[torch.dtype, torch.dtype]

    @property
    def network(self) -> nn.Module: ...
    @property
    def native_shape(self) -> LatentShape: ...

    def example_inputs(self, rows: int, latent_shape: LatentShape) -> tuple[torch.Tensor, ...]:
        """Random latents and row inputs, for tracing and capture."""


class Backend(NamedTuple):
    """A checkpoint's networks as one runtime runs them.

    `encode`: pixels (n, 3, h, w) in [-1, 1] to posterior moments, or a VAE without a posterior's latents. `decode`:
    latents to pixels. `owns_threads` says that the networks compute on threads of their own, and not on torch's.
    `counters` are what a backend that captures or compiles counts.
    """

    name: str
    denoiser: Denoiser
    encode: TensorFunction
    decode: TensorFunction
    owns_threads: bool = False
    counters: Callable[[], dict[str, int]] = dict


class BackendSlot:
    """The backend in use. Another thread may swap it: all backends take and give the same tensors.

    `compiling` says that a faster one is being made.
    """

    def __init__(self, backend: Backend) -> None:
        self._lock = threading.Lock()
        self._backend = backend
        self.compiling = False

    @property
    def backend(self) -> Backend:
        with self._lock:
            return self._backend

    def swap_backend(self, backend: Backend) -> None:
        """Run the next forward with this one."""
        with self._lock:
            self._backend = backend


class FixedBatch:
    """A denoiser that is always called with `rows` rows: its results are bitwise independent of batch composition."""

    def __init__(self, denoiser: Denoiser, rows: int) -> None:
        self._denoiser = denoiser
        self._rows = rows

    def __call__(self, latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        outputs = [
            self._denoiser(*(self._padded(tensor[start : start + self._rows]) for tensor in (latents, *inputs)))
            for start in range(0, len(latents), self._rows)
        ]
        return torch.cat(outputs)[: len(latents)]

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        missing = self._rows - len(rows)
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
