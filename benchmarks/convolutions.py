"""The VAE's convolutions at 512 px by torch's own library and by NNPACK, side by side, and how far each is from exact.

python -m benchmarks.convolutions > benchmarks/results/convolutions.json
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.machine import describe_machine, git_commit
from deployments.engine import nnpack

ROUNDS = 5
SHAPES = ((512, 512, 64), (512, 512, 128), (256, 256, 256), (256, 128, 512), (128, 128, 512), (512, 512, 32))


class Side(NamedTuple):
    """One library: seconds of each round, and its largest error over the largest exact value."""

    seconds: list[float]
    error: float


@torch.inference_mode()
def main() -> None:
    """Measure every shape (channels in, out, side of the plane) and print medians as JSON."""
    if not nnpack.is_available():
        raise SystemExit("NNPACK is not used on this processor")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    facts |= {"machine": describe_machine().model_dump(), "load_average": os.getloadavg()[0]}
    print(json.dumps({**facts, "convolutions": [measure(*shape) for shape in SHAPES]}, indent=1))


def measure(channels: int, made: int, side: int) -> dict[str, Any]:
    """Both libraries in turn on one random picture."""
    torch.manual_seed(0)
    convolution, picture = nn.Conv2d(channels, made, 3, padding=1), torch.randn(1, channels, side, side)
    exact = nn.functional.conv2d(picture.double(), convolution.weight.double(), convolution.bias.double(), padding=1)  # type: ignore[union-attr]
    sides = {"torch": convolution, "nnpack": nnpack.Convolution(convolution)}
    results = {name: Side([], _error(forward(picture), exact)) for name, forward in sides.items()}
    for _ in range(ROUNDS):
        for name, forward in sides.items():
            results[name].seconds.append(_seconds(forward, picture))
    medians = {name: statistics.median(result.seconds) for name, result in results.items()}
    return {
        "shape": [channels, made, side],
        "ms": {name: round(median * 1e3, 1) for name, median in medians.items()},
        "ratio": round(medians["torch"] / medians["nnpack"], 2),
        "error": {name: float(f"{result.error:.1e}") for name, result in results.items()},
    }


def _error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result - exact).abs().max() / exact.abs().max())


def _seconds(forward: Callable[[torch.Tensor], torch.Tensor], picture: torch.Tensor) -> float:
    started = time.perf_counter()
    forward(picture)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
