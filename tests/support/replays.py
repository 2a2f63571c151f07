"""Recordings without a GPU: what was recorded is called again, into the same output."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deployments.engine.accel.cuda.graphs import Recording


class Recaller:
    """Stands in for CUDA graphs. `fails_from` rows on it raises `error`; `seconds` is what a replay of n rows takes."""

    def __init__(self, seconds: Callable[[int], float] = float) -> None:
        self.seconds = seconds
        self.fails_from = 1000
        self.error: Exception = torch.OutOfMemoryError("CUDA out of memory")
        self.recorded: list[int] = []
        self.warmed_up: list[int] = []

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        self.warmed_up.append(len(forward()))

    def record(self, forward: Callable[[], torch.Tensor]) -> Recording:
        output = forward()
        rows = len(output)
        if rows >= self.fails_from:
            raise self.error
        self.recorded.append(rows)

        def replay() -> None:
            output.copy_(forward())

        return Recording(replay, output, self.seconds(rows))
