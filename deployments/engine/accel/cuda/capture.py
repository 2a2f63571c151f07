"""Captures forwards as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from deployments.engine.accel.cuda.graphs import Graph

REPLAYS = 5  # to time a graph: the fastest counts


class CudaGraphCapture:
    """Captures on a stream of its own into one memory pool, which all graphs share: no two of them may run at once.

    Sharing is safe because the device lock keeps the engine's thread out while a graph is captured or timed, and the
    device is idle then; all replays come from the engine's thread, on one stream. A warm-up runs beside the engine's
    work, on another stream than the captures': cuBLAS has one workspace a stream, which the graphs go on using.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._warm_up_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._capture_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        """Run it on another stream."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._warm_up_stream):
            forward()
        self._warm_up_stream.synchronize()

    def capture(self, forward: Callable[[], torch.Tensor]) -> Graph:
        """Capture and time it; the device must be idle."""
        # The outer `stream` puts this thread back on its own even where the capture fails half-way.
        with torch.cuda.device(self._device), torch.cuda.stream(self._capture_stream), _cudnn_benchmark():
            torch.cuda.synchronize()
            forward()  # what a library does only the first time on a stream must not be captured
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._capture_stream, capture_error_mode="thread_local"
            ):  # other threads of the process may use CUDA meanwhile
                output = forward()
            seconds = [_timed(graph.replay) for _ in range(REPLAYS)]
        return Graph(graph.replay, output, min(seconds))


@contextmanager
def _cudnn_benchmark() -> Iterator[None]:
    """cuDNN tries its algorithms on each new shape, which takes long, instead of guessing the best."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
