"""CUDA graphs, and the forms that a checkpoint's networks take on a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from deployments.engine.accel.cuda.attention import prefer_cudnn_attention
from deployments.engine.accel.cuda.backend import Forms
from deployments.engine.accel.cuda.graphs import Recording
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.networks import Networks

REPLAYS = 5  # to time a recording: the quickest counts


def cuda_forms(checkpoint: Checkpoint, max_rows: int) -> Iterator[Networks]:
    """The faster forms on CUDA, each as soon as it is made: "graphs" in seconds, "inductor+graphs" in minutes.

    None for weights that are not kept on the GPU. Adapters may be switched meanwhile, but results round otherwise in
    each form, so this is not for who needs them the same to the bit.
    """
    if hasattr(checkpoint.pipeline.unet, "_hf_hook"):
        return
    prefer_cudnn_attention(checkpoint.device)
    yield from Forms(checkpoint, max_rows, CudaRecorder(checkpoint.device))


@contextmanager
def _tried_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms on each new shape, which takes long, rather than guess the best."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


class CudaRecorder:
    """Records on a stream of its own into one pool of memory, which all graphs share: no two of them may run at once.

    Why that is sound: the gate keeps the engine's thread out while a graph is recorded or timed, and the device is
    idle then; all replays come from the engine's thread, on one stream. A first run happens beside the engine's work,
    on another stream than the recordings', since cuBLAS has one workspace a stream, which the graphs go on using.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._recording = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        with torch.cuda.device(self._device), torch.cuda.stream(self._beside):
            forward()
        self._beside.synchronize()

    def record(self, forward: Callable[[], torch.Tensor]) -> Recording:
        # The outer `stream` puts this thread back on its own even where the capture fails half-way.
        with torch.cuda.device(self._device), torch.cuda.stream(self._recording), _tried_convolutions():
            torch.cuda.synchronize()
            forward()  # what a library does only the first time on a stream must not be recorded
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._recording, capture_error_mode="thread_local"
            ):  # other threads of the process may be using CUDA for what is not ours
                output = forward()
            seconds = [_timed(graph.replay) for _ in range(REPLAYS)]
        return Recording(graph.replay, output, min(seconds))


def _timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
