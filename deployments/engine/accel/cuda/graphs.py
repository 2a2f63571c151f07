"""A network's forward as recordings (CUDA graphs) for a few numbers of rows, replayed without launching its kernels.

The engine's thread only replays. For what was not recorded it runs the fallback, and asks; another thread records.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch

from deployments.engine.accel.cuda.device_lock import DEVICE
from deployments.engine.models.devices import is_out_of_memory

logger = logging.getLogger(__name__)
Forward = Callable[..., torch.Tensor]
Shapes = tuple[torch.Size, ...]  # of one row of each input


@dataclass(slots=True)
class Counters:
    """Since start. `recordings_in_step` and `compilations_in_step` happened while a request waited: they stay 0."""

    recordings: int = 0
    recordings_in_step: int = 0
    compilations: int = 0
    compilations_in_step: int = 0
    failures: int = 0
    replays: int = 0
    fallbacks: int = 0

    def note_recording(self) -> None:
        self.recordings += 1
        self.recordings_in_step += DEVICE.in_step()

    def note_compilation(self) -> None:
        self.compilations += 1
        self.compilations_in_step += DEVICE.in_step()


class Recording(NamedTuple):
    """`replay` fills `output` from the inputs' present contents, in `seconds`."""

    replay: Callable[[], None]
    output: torch.Tensor
    seconds: float


class Recorder(Protocol):
    """What makes recordings: CUDA's is in capture.py."""

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        """Run it for what only a first run does, beside the engine's work."""

    def record(self, forward: Callable[[], torch.Tensor]) -> Recording:
        """Record it, with the device to itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows that are recorded, how often a batch without a recording must come first, and for how many shapes at most.

    The last two are there because callers choose the shapes, and each takes memory and time.
    """

    buckets: tuple[int, ...]  # ascending
    patience: int
    most_shapes: int

    def bucket(self, rows: int) -> int | None:
        """The least that holds so many rows; None if none does."""
        return next((bucket for bucket in self.buckets if bucket >= rows), None)


class Graphed:
    """Takes tensors of n rows each and gives n rows, as `forward` and `fallback` do. Only one thread may call it.

    A `fallback` that is recorded too has the same limits to its rows.

    `ask` gets the work of recording, which another thread is to do. `compiles` says that `forward` takes its time
    when it sees a shape first: it is then called before it is recorded, beside the engine's work.
    """

    def __init__(
        self,
        forward: Forward,
        fallback: Forward,
        recorder: Recorder,
        limits: Limits,
        counters: Counters,
        ask: Callable[[Callable[[], object]], None],
        *,
        compiles: bool = False,
    ) -> None:
        self._forward, self._fallback = forward, fallback
        self._recorder = recorder
        self._limits = limits
        self._counters = counters
        self._ask = ask
        self._compiles = compiles
        self._buffers: dict[tuple[int, torch.Size], torch.Tensor] = {}
        if isinstance(fallback, Graphed):  # SDXL's keys and values alone take 0.8 GB at 32 rows: not twice
            self._buffers = fallback._buffers
        self._recordings: dict[Shapes, dict[int, Recording]] = {}
        self._plans: dict[tuple[Shapes, int], tuple[int, ...]] = {}
        self._missed: Counter[tuple[Shapes, int]] = Counter()
        self._too_large: set[tuple[Shapes, int]] = set()
        self._broken = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        shapes, rows = _shapes(inputs), len(inputs[0])
        plan = self._plan(shapes, rows)
        if not plan:
            self._counters.fallbacks += 1
            self._want(inputs)
            return self._fallback(*inputs)
        outputs, start = [], 0
        for bucket in plan:
            outputs.append(self._replay(shapes, bucket, [x[start : start + bucket] for x in inputs]))
            start += bucket
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @torch.inference_mode()
    def record(self, inputs: Sequence[torch.Tensor], buckets: Iterable[int] | None = None) -> None:
        """Record these buckets, or all, for inputs of these shapes. Takes seconds: not on the way of a request.

        The largest go first, since the others then fit in its memory. What fails is left to the fallback.
        """
        for bucket in sorted(buckets or self._limits.buckets, reverse=True):
            if self._broken:
                return
            try:
                self._record(inputs, bucket)
            except Exception as exc:
                self._counters.failures += 1
                self._too_large.add((_shapes(inputs), bucket))
                self._broken = not is_out_of_memory(exc)
                logger.warning("no recording of %d rows, which run without: %s", bucket, exc, exc_info=self._broken)

    def seconds(self, inputs: Sequence[torch.Tensor]) -> dict[int, float]:
        """How long a replay takes, for each bucket that is recorded for inputs of these shapes."""
        return _seconds(self._recordings.get(_shapes(inputs), {}))

    def _record(self, inputs: Sequence[torch.Tensor], bucket: int) -> None:
        shapes = _shapes(inputs)
        forward = partial(self._forward, *(self._buffer(i, x)[:bucket] for i, x in enumerate(inputs)))
        if self._compiles:
            self._recorder.warm_up(forward)
        with DEVICE.exclusively():
            recording = self._recorder.record(forward)
            self._counters.note_recording()
            self._recordings.setdefault(shapes, {})[bucket] = recording
            self._plans.clear()

    def _buffer(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """What recordings read input `index` from, the same for all numbers of rows.

        Rows beyond those of a batch keep what earlier batches left: rows do not touch each other, and these are cut.
        """
        shape = like.shape[1:]
        if (index, shape) not in self._buffers:
            self._buffers[index, shape] = like.new_zeros(self._limits.buckets[-1], *shape)
        return self._buffers[index, shape]

    def _replay(self, shapes: Shapes, bucket: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = len(inputs[0])
        for i, x in enumerate(inputs):
            self._buffers[i, shapes[i]][:rows].copy_(x)
        recording = self._recordings[shapes][bucket]
        recording.replay()
        self._counters.replays += 1
        return recording.output[:rows].clone()  # the next replay, of whatever recording, may write there

    def _plan(self, shapes: Shapes, rows: int) -> tuple[int, ...]:
        """The buckets to replay for so many rows; none where the fallback must do."""
        if (shapes, rows) not in self._plans:
            recorded = self._recordings.get(shapes, {})
            bucket = self._limits.bucket(rows)
            awaited = bucket is not None and bucket not in recorded and (shapes, bucket) not in self._too_large
            self._plans[shapes, rows] = () if awaited else cheapest(rows, _seconds(recorded))
        return self._plans[shapes, rows]

    def _want(self, inputs: Sequence[torch.Tensor]) -> None:
        """Count a batch without a recording, and ask for one of what has come often enough."""
        shapes, bucket = _shapes(inputs), self._limits.bucket(len(inputs[0]))
        if bucket is None or bucket in self._recordings.get(shapes, {}) or self._broken:
            return
        self._missed[shapes, bucket] += 1
        room = shapes in self._recordings or len(self._recordings) < self._limits.most_shapes
        if self._missed[shapes, bucket] == self._limits.patience and room:
            self._ask(partial(self.record, [x[:0].clone() for x in inputs], [bucket]))


def cheapest(rows: int, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """The buckets, largest first, that take `rows` rows in the least time, given each bucket's; () without any.

    One that is not filled, or several: where time grows with the rows, 17 go as 16 and 1 rather than as 24.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for wanted in range(1, rows + 1):
        ways = [(took + best[max(0, wanted - bucket)][0], bucket) for bucket, took in seconds.items()]
        if not ways:
            return ()
        took, bucket = min(ways)
        best.append((took, (bucket, *best[max(0, wanted - bucket)][1])))
    return tuple(sorted(best[rows][1], reverse=True))


def _shapes(inputs: Sequence[torch.Tensor]) -> Shapes:
    return tuple(x.shape[1:] for x in inputs)


def _seconds(recordings: Mapping[int, Recording]) -> dict[int, float]:
    return {bucket: recording.seconds for bucket, recording in recordings.items()}
