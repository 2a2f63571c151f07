"""Tensors to the device and back, the host one step ahead of the device, and torch's threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
Moment = float | torch.cuda.Event


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; on CUDA the copy is queued behind the device's work."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class ToHost:
    """Copies of tensors to the host; on CUDA they are queued behind the device's work."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if not tensors[0].is_cuda:
            self._copies = [tensor.cpu() for tensor in tensors]
            return
        self._copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[torch.Tensor]:
        """All copies, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies


class StepPipeline(Generic[T]):
    """Keeps the host one step ahead of a CUDA device and no more, so that a newcomer waits for one step at most.

    It also times the steps on the device, since the host only submits them. `T` says whose step it was.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: tuple[T, Moment, Moment] | None = None
        self._completed: list[tuple[T, float]] = []

    def now(self) -> Moment:
        """The moment when the device has done all that was submitted so far; on other devices the present."""
        if self._device.type == "mps":
            torch.mps.synchronize()
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def submit(self, step: T, started: Moment) -> None:
        """The host has submitted a step: wait until the device has completed the one before."""
        before, self._running = self._running, (step, started, self.now())
        if self._device.type != "cuda":
            before, self._running = self._running, None
        if before is not None:
            self._completed.append((before[0], _seconds(before[1], before[2])))

    def completed(self) -> list[tuple[T, float]]:
        """The steps that were found completed since the last call, and the seconds each took."""
        completed, self._completed = self._completed, []
        return completed


def _seconds(started: Moment, ended: Moment) -> float:
    if isinstance(started, float) or isinstance(ended, float):
        return float(ended) - float(started)  # type: ignore[arg-type]
    ended.synchronize()
    return float(started.elapsed_time(ended)) / 1000


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Have torch compute on this thread alone, if `wanted`.

    torch splits every operation of more than 32,768 values. Where other threads keep the cores busy, waiting for all
    parts of a small operation takes longer than computing it alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host ran out of memory."""
    allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return allocator or isinstance(error, (torch.OutOfMemoryError, MemoryError))
