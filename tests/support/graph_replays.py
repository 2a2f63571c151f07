"""Graphs without a GPU: a replay calls the captured forward again, into the same output."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deployments.engine.accel.cuda.graphs import Graph


class CallAgain:
    """A GraphCapture. From `fails_from` rows on it raises `error`; `seconds` is what a replay of n rows takes."""

    def __init__(self, seconds: Callable[[int], float] = float) -> None:
        self.seconds = seconds
        self.fails_from = 1000
        self.error: Exception = torch.OutOfMemoryError("CUDA out of memory")
        self.captured: list[int] = []
        self.warmed_up: list[int] = []

    def warm_up(self, forward: Callable[[], torch.Tensor]) -> None:
        self.warmed_up.append(len(forward()))

    def capture(self, forward: Callable[[], torch.Tensor]) -> Graph:
        output = forward()
        rows = len(output)
        if rows >= self.fails_from:
            raise self.error
        self.captured.append(rows)

        def replay() -> None:
            output.copy_(forward())

        return Graph(replay, output, self.seconds(rows))
