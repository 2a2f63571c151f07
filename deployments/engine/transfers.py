"""Tensors from the host to the device and back, without the host waiting for the device where it need not."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
Moment = float | torch.cuda.Event


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor there; on CUDA it is on its way, in the order of the device's work."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class ToHost:
    """Tensors on their way to the host: on CUDA they come in the order of the device's work."""

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
        """All of them, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies


class Pace(Generic[T]):
    """Keeps the host one step ahead of a CUDA device and no more, so that a newcomer waits for one step at most.

    It also times the steps: on the device, since the host only hands them over. What `T` is says whose step it was.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: tuple[T, Moment, Moment] | None = None
        self._timed: list[tuple[T, float]] = []

    def now(self) -> Moment:
        """The moment when the device has done all that it was given so far; elsewhere the present."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def step_done(self, whose: T, started: Moment) -> None:
        """The host has handed over a step: wait until the device is done with the one before."""
        before, self._running = self._running, (whose, started, self.now())
        if self._device.type != "cuda":
            before, self._running = self._running, None
        if before is not None:
            self._timed.append((before[0], _seconds(before[1], before[2])))

    def timed(self) -> list[tuple[T, float]]:
        """The steps that were found done since this was asked last, and the seconds each took."""
        timed, self._timed = self._timed, []
        return timed


def _seconds(started: Moment, ended: Moment) -> float:
    if isinstance(started, float) or isinstance(ended, float):
        return float(ended) - float(started)  # type: ignore[arg-type]
    ended.synchronize()
    return float(started.elapsed_time(ended)) / 1000
