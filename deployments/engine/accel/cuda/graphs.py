"""A network's forward as CUDA graphs for a few numbers of rows, replayed without launching its kernels.

The engine's thread only replays. For shapes without a capture it runs the fallback and requests a capture, which
another thread makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from cachetools import LRUCache

from deployments.engine.accel.cuda.device_lock import DEVICE_LOCK
from deployments.engine.transfers import is_out_of_memory

logger = logging.getLogger(__name__)
Forward = Callable[..., torch.Tensor]
Shapes = tuple[torch.Size, ...]  # of one row of each input
MAX_MISSED = 1024  # shapes and numbers of rows whose calls without a capture are counted


@dataclass(slots=True)
class Counters:
    """Counts since the start. `captures_in_step` and `compilations_in_step`, for which a request waited, stay 0."""

    captures: int = 0
    captures_in_step: int = 0
    compilations: int = 0
    compilations_in_step: int = 0
    failures: int = 0
    replays: int = 0
    fallbacks: int = 0

    def add_capture(self) -> None:
        self.captures += 1
        self.captures_in_step += DEVICE_LOCK.in_step()

    def add_compilation(self) -> None:
        self.compilations += 1
        self.compilations_in_step += DEVICE_LOCK.in_step()


class Graph(NamedTuple):
    """`replay` fills `output` from the inputs' present contents, in `seconds`."""

    replay: Callable[[], None]
    output: torch.Tensor
    seconds: float


class GraphCapture(Protocol):
    """Captures forwards; CUDA's is in capture.py."""

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        """Run what only a first run does, beside the engine's work."""

    def capture(self, forward: Callable[[], torch.Tensor]) -> Graph:
        """Capture it, with the device to itself."""


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """`buckets` are the numbers of rows that are captured, ascending.

    A shape is captured after `calls` without a capture, and at most `shapes` are: callers choose the shapes, and each
    takes memory and time.
    """

    buckets: tuple[int, ...]
    calls: int
    shapes: int

    def bucket(self, rows: int) -> int | None:
        """The smallest bucket with room for so many rows; None if there is none."""
        return next((bucket for bucket in self.buckets if bucket >= rows), None)


class GraphedModule:
    """Takes tensors of n rows each and gives n rows, as `forward` and `fallback` do. Only one thread may call it.

    A `fallback` that is captured too has the same limits to its rows. `request_capture` gets the work of capturing,
    which another thread is to do. `compiles` says that the first call of `forward` with a shape compiles: it is made
    before the capture, beside the engine's work.
    """

    def __init__(
        self,
        forward: Forward,
        fallback: Forward,
        graph_capture: GraphCapture,
        limits: CaptureLimits,
        counters: Counters,
        request_capture: Callable[[Callable[[], object]], None],
        *,
        compiles: bool = False,
    ) -> None:
        self._forward, self._fallback = forward, fallback
        self._graph_capture = graph_capture
        self._limits = limits
        self._counters = counters
        self._request_capture = request_capture
        self._compiles = compiles
        self._buffers: dict[tuple[int, torch.Size], torch.Tensor] = {}
        if isinstance(fallback, GraphedModule):  # SDXL's keys and values alone take 0.8 GB at 32 rows: not twice
            self._buffers = fallback._buffers
        self._graphs: dict[Shapes, dict[int, Graph]] = {}
        self._misses: LRUCache[tuple[Shapes, int], int] = LRUCache(MAX_MISSED)
        self._too_large: set[tuple[Shapes, int]] = set()
        self._broken = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        shapes, rows = _shapes(inputs), len(inputs[0])
        plan = self._plan(shapes, rows)
        if not plan:
            self._counters.fallbacks += 1
            self._count_miss(inputs)
            return self._fallback(*inputs)
        outputs, start = [], 0
        for bucket in plan:
            outputs.append(self._replay(shapes, bucket, [x[start : start + bucket] for x in inputs]))
            start += bucket
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @torch.inference_mode()
    def capture(self, inputs: Sequence[torch.Tensor], buckets: Iterable[int] | None = None) -> None:
        """Capture these buckets, or all, for inputs of these shapes. Takes seconds: never while a request waits.

        The largest come first, since the others then fit in its memory. The fallback runs what cannot be captured.
        """
        for bucket in sorted(buckets or self._limits.buckets, reverse=True):
            if self._broken:
                return
            try:
                self._capture(inputs, bucket)
            except Exception as exc:
                self._counters.failures += 1
                self._too_large.add((_shapes(inputs), bucket))
                self._broken = not is_out_of_memory(exc)
                logger.warning("no capture of %d rows; the fallback runs: %s", bucket, exc, exc_info=self._broken)

    def seconds(self, inputs: Sequence[torch.Tensor]) -> dict[int, float]:
        """Seconds of a replay, for each bucket that is captured for inputs of these shapes."""
        return _seconds(self._graphs.get(_shapes(inputs), {}))

    def _capture(self, inputs: Sequence[torch.Tensor], bucket: int) -> None:
        shapes = _shapes(inputs)
        forward = partial(self._forward, *(self._buffer(i, x)[:bucket] for i, x in enumerate(inputs)))
        if self._compiles:
            self._graph_capture.warm_up(forward)
        with DEVICE_LOCK.capture():
            graph = self._graph_capture.capture(forward)
            self._counters.add_capture()
            self._graphs.setdefault(shapes, {})[bucket] = graph

    def _buffer(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """The memory that graphs read input `index` from, the same for all numbers of rows.

        Rows beyond a batch's keep what earlier batches left there: rows never touch each other, and theirs are cut off.
        """
        shape = like.shape[1:]
        if (index, shape) not in self._buffers:
            self._buffers[index, shape] = like.new_zeros(self._limits.buckets[-1], *shape)
        return self._buffers[index, shape]

    def _replay(self, shapes: Shapes, bucket: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = len(inputs[0])
        for i, x in enumerate(inputs):
            self._buffers[i, shapes[i]][:rows].copy_(x)
        graph = self._graphs[shapes][bucket]
        graph.replay()
        self._counters.replays += 1
        return graph.output[:rows].clone()  # the next replay, of any graph, may write there

    def _plan(self, shapes: Shapes, rows: int) -> tuple[int, ...]:
        """The buckets to replay for so many rows; none where the fallback must run."""
        captured, bucket = self._graphs.get(shapes, {}), self._limits.bucket(rows)
        awaited = bucket is not None and bucket not in captured and (shapes, bucket) not in self._too_large
        return () if awaited else cheapest(rows, _seconds(captured))

    def _count_miss(self, inputs: Sequence[torch.Tensor]) -> None:
        """Count a batch without a capture, and request one for what has come often enough."""
        shapes, bucket = _shapes(inputs), self._limits.bucket(len(inputs[0]))
        if bucket is None or bucket in self._graphs.get(shapes, {}) or self._broken:
            return
        self._misses[shapes, bucket] = self._misses.get((shapes, bucket), 0) + 1
        has_room = shapes in self._graphs or len(self._graphs) < self._limits.shapes
        if self._misses[shapes, bucket] == self._limits.calls and has_room:
            self._request_capture(partial(self.capture, [x[:0].clone() for x in inputs], [bucket]))


def cheapest(rows: int, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """The buckets, largest first, that run `rows` rows in the least time, given each bucket's seconds; () without any.

    One bucket that is not filled, or several: where time grows with the rows, 17 run as 16 and 1 rather than as 24.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for wanted in range(1, rows + 1):
        choices = [(took + best[max(0, wanted - bucket)][0], bucket) for bucket, took in seconds.items()]
        if not choices:
            return ()
        took, bucket = min(choices)
        best.append((took, (bucket, *best[max(0, wanted - bucket)][1])))
    return tuple(sorted(best[rows][1], reverse=True))


def _shapes(inputs: Sequence[torch.Tensor]) -> Shapes:
    return tuple(x.shape[1:] for x in inputs)


def _seconds(graphs: Mapping[int, Graph]) -> dict[int, float]:
    return {bucket: graph.seconds for bucket, graph in graphs.items()}
