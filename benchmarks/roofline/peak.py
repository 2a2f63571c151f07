"""The device's peak: FLOP/s of matmuls and convolutions, and bytes copied per second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import conv2d, linear
from torch.utils.benchmark import Timer

from benchmarks.architectures import Family, unet_config
from benchmarks.roofline.work import FACTOR

SQUARE = 2048  # sides of a matmul that has every advantage
COPIED_BYTES = 256 * 2**20
MIN_SECONDS = 0.5  # of repeating each shape


@torch.inference_mode()
def matrix_rates(family: Family, size: int, rows: int, device: str, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s by shape: a large square matmul, and each UNet level's 3x3 convolution and feed-forward matmul.

    `rows` is the batch. The fastest repetition of each shape counts, so that other work on the machine harms little.
    """

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    square, other = zeros(SQUARE, SQUARE), zeros(SQUARE, SQUARE)
    rates = {f"matmul {SQUARE}^3": 2 * SQUARE**3 / _seconds(lambda: linear(square, other))}
    for level, channels in enumerate(dict.fromkeys(unet_config(family)["block_out_channels"])):
        side = max(1, size // FACTOR >> level)
        image, kernel = zeros(rows, channels, side, side), zeros(channels, channels, 3, 3)
        seconds = _seconds(lambda image=image, kernel=kernel: conv2d(image, kernel, padding=1))  # type: ignore[misc]
        rates[f"convolution {channels} at {side}x{side}"] = 2 * 9 * rows * side**2 * channels**2 / seconds
        tokens, weight = zeros(rows * side**2, channels), zeros(8 * channels, channels)
        seconds = _seconds(lambda tokens=tokens, weight=weight: linear(tokens, weight))  # type: ignore[misc]
        rates[f"matmul {rows * side**2}x{channels}x{8 * channels}"] = 2 * 8 * rows * side**2 * channels**2 / seconds
    return rates


def copy_rate(device: str) -> float:
    """Bytes per second of a copy; bytes read and bytes written both count."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _seconds(lambda: target.copy_(source))


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of the fastest call; on CUDA the timer waits for the device."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=MIN_SECONDS)
    return float(min(measured.times))
