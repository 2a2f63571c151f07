"""Backends for CUDA: the networks as graphs, within seconds, then compiled by inductor and captured, within minutes.

Requests are served meanwhile, and none waits for a compiler: what is not captured yet runs on the backend before.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from operator import attrgetter
from queue import PriorityQueue
from typing import Any, NamedTuple

import torch
from torch import nn

from deployments.engine.accel.cuda.attention import prefer_cudnn_attention
from deployments.engine.accel.cuda.capture import CudaGraphCapture
from deployments.engine.accel.cuda.device_lock import DEVICE_LOCK
from deployments.engine.accel.cuda.graphs import CaptureLimits, Counters, Forward, GraphCapture, GraphedModule
from deployments.engine.accel.cuda.inductor import compiled
from deployments.engine.models.lora import without_loras
from deployments.engine.models.vae import vae_decoder, vae_encoder
from deployments.engine.networks import Backend, CompilableFamily

logger = logging.getLogger(__name__)
BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
VAE_BUCKETS = (1,)  # one image fills a GPU
GRAPHS, INDUCTOR = range(2)  # requested captures of the first kind are made first
CALLS = 20, 200  # of one shape without a capture, before it is captured: some requests, or many
MAX_SHAPES = 32, 8
MAX_ERROR = 0.05  # of the eager output: larger errors are faults, not rounding


def cuda_backends(family: CompilableFamily, max_rows: int) -> Iterator[Backend]:
    """The faster backends, each as soon as it is made: "graphs" in seconds, "inductor+graphs" in minutes.

    There is none for weights that are not kept on the GPU. Adapters may be switched meanwhile. Each backend rounds
    otherwise, so none is for a reproducible family.
    """
    if not family.weights_stay_on_device:
        return
    prefer_cudnn_attention(family.device)
    yield from CudaBackends(family, max_rows, CudaGraphCapture(family.device))


class _Part(NamedTuple):
    """A network without LoRAs, its forward, inputs of the native size, and the numbers of rows to capture."""

    network: nn.Module
    forward_of: Callable[[Any], Forward]
    inputs: tuple[torch.Tensor, ...]
    buckets: tuple[int, ...]

    @property
    def forward(self) -> Forward:
        return self.forward_of(self.network)

    def for_inductor(self) -> Forward:
        """The forward of a copy in NHWC, in which inductor's kernels are faster and eager ones slower."""
        copied = without_loras(self.network)
        return self.forward_of(copied.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


class CudaBackends:
    """Makes the backends in the thread that iterates, for step batches of up to `max_rows`.

    Each is yielded as soon as it is made for the checkpoint's native size. Other sizes are captured when they have come
    often enough: after the iteration, in a thread that lasts as long as the process.
    """

    def __init__(
        self, family: CompilableFamily, max_rows: int, graph_capture: GraphCapture, compiler: str = "inductor"
    ) -> None:
        self.counters = Counters()
        self._graph_capture = graph_capture
        self._compiler = compiler
        self._parts = _parts(family, max_rows)
        self._requested: PriorityQueue[tuple[int, int, Callable[[], object]]] = PriorityQueue()
        self._order = count()

    def __iter__(self) -> Iterator[Backend]:
        eager = [part.forward for part in self._parts]
        graphs = [self._faster(part, before, GRAPHS) for part, before in zip(self._parts, eager, strict=True)]
        if graphs != eager:
            yield self._backend("graphs", graphs)
        best = [self._faster(part, before, INDUCTOR) for part, before in zip(self._parts, graphs, strict=True)]
        if best != graphs:
            yield self._backend("inductor+graphs", best)
        threading.Thread(target=self._serve, name="capture", daemon=True).start()

    def request_capture(self, kind: int, work: Callable[[], object]) -> None:
        """Have it made later, graphs of eager networks before compiled ones. From any thread."""
        self._requested.put((kind, next(self._order), work))

    def serve_one(self) -> None:
        """Wait for a requested capture, and make it."""
        self._requested.get()[-1]()

    def _serve(self) -> None:
        while True:
            self.serve_one()

    def _faster(self, part: _Part, before: Forward, kind: int) -> Forward:
        """The part graphed or compiled, or as it was before if that is wrong or no faster."""
        buckets = _compiled_together(part.buckets) if kind == INDUCTOR else part.buckets
        limits = CaptureLimits(buckets, CALLS[kind], MAX_SHAPES[kind])
        forward = part.forward
        if kind == INDUCTOR:
            forward = compiled(part.for_inductor(), self.counters, self._compiler)
        request = partial(self.request_capture, kind)
        graphed = GraphedModule(
            forward, before, self._graph_capture, limits, self.counters, request, compiles=kind == INDUCTOR
        )
        graphed.capture(part.inputs)
        if graphed.seconds(part.inputs) and _is_right(graphed, part) and is_faster(graphed, before, part.inputs):
            return graphed
        return before

    def _backend(self, name: str, forwards: list[Forward]) -> Backend:
        denoiser, encode, decode = forwards
        return Backend(name, denoiser, encode, decode, counters=lambda: asdict(self.counters))


@torch.inference_mode()
def _is_right(graphed: GraphedModule, part: _Part) -> bool:
    with DEVICE_LOCK.capture():
        error = relative_error(graphed(*part.inputs), part.forward(*part.inputs))
    if not error <= MAX_ERROR:
        logger.warning("a compiled network is off by %.1e of its output, and is not used", error)
    return error <= MAX_ERROR


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, divided by that of `exact`; NaN if anything is NaN or infinite."""
    difference = (output.float() - exact.float()).square().mean().sqrt()
    error = float(difference / exact.float().square().mean().sqrt())
    return error if math.isfinite(error) else math.nan


def is_faster(graphed: GraphedModule, before: Forward, inputs: Sequence[torch.Tensor]) -> bool:
    """By the rows that both have captured for inputs of these shapes. A graph is faster than none."""
    seconds = graphed.seconds(inputs)
    usual = before.seconds(inputs) if isinstance(before, GraphedModule) else {}
    both = seconds.keys() & usual.keys()
    took, took_before = sum(seconds[rows] for rows in both), sum(usual[rows] for rows in both)
    if both:
        logger.info("a compiled network takes %.1f ms instead of %.1f ms", took * 1e3, took_before * 1e3)
    return not both or took < took_before


def _parts(family: CompilableFamily, max_rows: int) -> list[_Part]:
    """Denoiser, VAE encoder, VAE decoder."""
    rows = min(3, max_rows)  # padded in their bucket, so that a check sees padding too
    latents, *inputs = family.example_inputs(rows, family.native_shape)
    encoder_dtype, decoder_dtype = family.vae_dtypes
    pixels = latents.new_empty(rows, 3, *(side * family.codec.factor for side in family.native_shape)).normal_()
    network, vae = without_loras(family.network), without_loras(family.vae)
    buckets = (*(bucket for bucket in BUCKETS if bucket < max_rows), max_rows)
    return [
        _Part(network, attrgetter("forward"), (latents, *inputs), buckets),
        _Part(vae, vae_encoder, (pixels.to(encoder_dtype),), VAE_BUCKETS),
        _Part(vae, vae_decoder, (latents.to(decoder_dtype),), VAE_BUCKETS),
    ]


def _compiled_together(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Buckets that share one dynamic-shape compilation. Batch size 1 would be specialised, so it is padded to 2."""
    return buckets[1:] if buckets[0] == 1 and len(buckets) > 1 else buckets
