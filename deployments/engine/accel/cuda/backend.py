"""Forms of a checkpoint's networks for a GPU: recorded as they are, in seconds, then compiled.

Requests go on meanwhile, and none waits for a compiler: what is not made yet runs in the form before.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from queue import PriorityQueue
from typing import Any, NamedTuple

import torch
from torch import nn

from deployments.engine.accel.cuda.device_lock import DEVICE
from deployments.engine.accel.cuda.graphs import Counters, Forward, Graphed, Limits, Recorder
from deployments.engine.accel.cuda.inductor import compiled
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.lora import without_adapters
from deployments.engine.models.unet import HoistedUnet
from deployments.engine.networks import Networks, VaeNetworks, eager_vae

logger = logging.getLogger(__name__)
BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
VAE_BUCKETS = (1,)  # one picture fills a GPU, and is compiled for itself, beside any other number
TOKENS = 77
NATIVE_SIDE = 64  # of the latents, where the configuration does not say
GRAPHS, INDUCTOR = range(2)  # what is asked for first is made first
PATIENCE = 20, 200  # calls that one kind of batch must have had before it is worth the work: some requests, or many
MOST_SHAPES = 32, 8
TOLERANCE = 0.05  # of a form's output: tells what is wrong from what is rounded otherwise


class _Part(NamedTuple):
    """A network without adapters, how it is called, inputs of the native size, and the rows it is called with."""

    network: nn.Module
    forward: Forward
    inputs: tuple[torch.Tensor, ...]
    buckets: tuple[int, ...]
    of: Callable[[Any], Forward]  # what `forward` is of `network`

    def for_inductor(self) -> Forward:
        """The same of a copy in channels last, which torch's eager kernels are slower in and inductor's are faster."""
        return self.of(without_adapters(self.network).to(memory_format=torch.channels_last))  # type: ignore[call-overload]


class Forms:
    """Makes them in the thread that iterates, for step batches of up to `max_rows`.

    Each form comes as soon as it is made for the checkpoint's native size. Other sizes are made when they have come
    often enough: once the iteration is over, in a thread that lasts as long as the process.
    """

    def __init__(self, checkpoint: Checkpoint, max_rows: int, recorder: Recorder, backend: str = "inductor") -> None:
        self.counters = Counters()
        self._recorder = recorder
        self._backend = backend
        self._parts = _parts(checkpoint, max_rows)
        self._asked: PriorityQueue[tuple[int, int, Callable[[], object]]] = PriorityQueue()
        self._order = count()

    def __iter__(self) -> Iterator[Networks]:
        graphs = [self._made(part, part.forward, GRAPHS) for part in self._parts]
        if graphs != [part.forward for part in self._parts]:
            yield self._networks("graphs", graphs)
        best = [self._made(part, before, INDUCTOR) for part, before in zip(self._parts, graphs, strict=True)]
        if best != graphs:
            yield self._networks("inductor+graphs", best)
        threading.Thread(target=self._serve, name="recorder", daemon=True).start()

    def serve_one(self) -> None:
        """Wait until something is asked for, and make it."""
        self._asked.get()[-1]()

    def _serve(self) -> None:
        while True:
            self.serve_one()

    def _made(self, part: _Part, before: Forward, kind: int) -> Forward:
        """The part in the next form, or as it was before if that is wrong or no faster."""
        buckets = _compiled_together(part.buckets) if kind == INDUCTOR else part.buckets
        limits = Limits(buckets, PATIENCE[kind], MOST_SHAPES[kind])
        forward = part.forward
        if kind == INDUCTOR:
            forward = compiled(part.for_inductor(), self.counters, self._backend)
        ask = partial(self.ask, kind)
        made = Graphed(forward, before, self._recorder, limits, self.counters, ask, compiles=kind == INDUCTOR)
        made.record(part.inputs)
        is_better = made.seconds(part.inputs) and _is_right(made, part) and faster(made, before, part.inputs)
        return made if is_better else before

    def ask(self, kind: int, work: Callable[[], object]) -> None:
        """Have it done later, what is recorded as it is before what is compiled. From any thread."""
        self._asked.put((kind, next(self._order), work))

    def _networks(self, form: str, forwards: list[Forward]) -> Networks:
        unet, encode, decode = forwards
        return Networks(form, unet, VaeNetworks(encode, decode), self.counters)


@torch.inference_mode()
def _is_right(made: Graphed, part: _Part) -> bool:
    with DEVICE.exclusively():
        error = relative_error(made(*part.inputs), part.forward(*part.inputs))
    if not error <= TOLERANCE:
        logger.warning("a compiled network is off by %.1e of its output, and stays as it was", error)
    return error <= TOLERANCE


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, as a part of that of `exact`; NaN if anything is NaN or infinite."""
    difference = (output.float() - exact.float()).square().mean().sqrt()
    error = float(difference / exact.float().square().mean().sqrt())
    return error if math.isfinite(error) else math.nan


def faster(made: Graphed, before: Forward, inputs: Sequence[torch.Tensor]) -> bool:
    """Over the rows that both are recorded for, with inputs of these shapes. A recording is faster than none."""
    seconds = made.seconds(inputs)
    usual = before.seconds(inputs) if isinstance(before, Graphed) else {}
    both = seconds.keys() & usual.keys()
    took, took_before = sum(seconds[rows] for rows in both), sum(usual[rows] for rows in both)
    if both:
        logger.info("a compiled network takes %.1f ms where it took %.1f ms", took * 1e3, took_before * 1e3)
    return not both or took < took_before


def _parts(checkpoint: Checkpoint, max_rows: int) -> list[_Part]:
    """UNet, VAE encoder, VAE decoder."""
    unet, vae = checkpoint.unet, checkpoint.pipeline.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = unet.unet.config.sample_size or NATIVE_SIDE
    height, width = (size, size) if isinstance(size, int) else size
    rows = min(3, max_rows)  # padded in their bucket, so that a check sees that too
    on_unet = partial(_random, device=checkpoint.device, dtype=checkpoint.dtype)
    on_encoder = partial(_random, device=checkpoint.device, dtype=checkpoint.vae_dtypes.encoder)
    on_decoder = partial(_random, device=checkpoint.device, dtype=checkpoint.vae_dtypes.decoder)
    latents = rows, vae.config.latent_channels, height, width
    pixels = rows, 3, height * factor, width * factor
    bare, bare_vae = without_adapters(unet), without_adapters(vae)
    steering = on_unet(rows, unet.times_width), on_unet(rows, TOKENS, unet.context_width)
    return [
        _Part(bare, bare.forward, (on_unet(*latents), *steering), _up_to(max_rows, BUCKETS), _forward),
        _Part(bare_vae, _encode(bare_vae), (on_encoder(*pixels),), VAE_BUCKETS, _encode),
        _Part(bare_vae, _decode(bare_vae), (on_decoder(*latents),), VAE_BUCKETS, _decode),
    ]


def _forward(unet: HoistedUnet) -> Forward:
    return unet.forward


def _encode(vae: Any) -> Forward:
    return eager_vae(vae).encode


def _decode(vae: Any) -> Forward:
    return eager_vae(vae).decode


def _random(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _compiled_together(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Those that one compilation makes: a single row would take as long again as all others, so it goes as two."""
    return buckets[1:] if buckets[0] == 1 and len(buckets) > 1 else buckets


def _up_to(most: int, buckets: tuple[int, ...]) -> tuple[int, ...]:
    return (*(rows for rows in buckets if rows < most), most)
