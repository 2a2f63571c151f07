"""Which attention kernels torch takes first on Hopper: cuDNN's or flash attention's, as measured on the network."""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)
HOPPER = (9, 0)  # elsewhere cuDNN's are no faster than flash attention
OTHERS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # for what the two cannot do
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *OTHERS]
FLASH_FIRST = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, *OTHERS]
ROUNDS = 8
_chosen = ExitStack()


def choose_attention(forward: Callable[[], torch.Tensor], device: torch.device) -> bool:
    """Try both orders on `forward`, and keep the better for the whole process. True if cuDNN's come first then.

    Which of them torch takes by itself differs between its releases.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != HOPPER:
        return False
    with sdpa_kernel(SDPBackend.MATH):
        exact = forward()
    (flash, flash_s), (cudnn, cudnn_s) = _measured(forward, device, [FLASH_FIRST, CUDNN_FIRST])
    flash_error, cudnn_error = relative_error(flash, exact), relative_error(cudnn, exact)
    better = is_better(cudnn_error, cudnn_s, flash_error, flash_s)
    logger.info(
        "attention: cuDNN %.1f ms, error %.1e; flash %.1f ms, error %.1e: %s",
        cudnn_s * 1e3,
        cudnn_error,
        flash_s * 1e3,
        flash_error,
        "cuDNN" if better else "flash",
    )
    _chosen.enter_context(sdpa_kernel(CUDNN_FIRST if better else FLASH_FIRST, set_priority=True))
    atexit.register(_chosen.close)
    return better


def is_better(error: float, seconds: float, usual_error: float, usual_seconds: float) -> bool:
    """Faster, and no further from the exact result than rounding differs anyway. NaN is never better."""
    return seconds < usual_seconds and error <= 2 * usual_error + 1e-6


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, as a part of that of `exact`; NaN if anything is NaN or infinite."""
    difference = (output.float() - exact.float()).square().mean().sqrt()
    error = float(difference / exact.float().square().mean().sqrt())
    return error if math.isfinite(error) else math.nan


def _measured(
    forward: Callable[[], torch.Tensor], device: torch.device, orders: Sequence[list[SDPBackend]]
) -> list[tuple[torch.Tensor, float]]:
    """Each order's output, and its least seconds of a few calls, in turns: others may be using the GPU too."""
    outputs, seconds = [], [math.inf] * len(orders)
    for order in orders:
        with sdpa_kernel(order, set_priority=True):
            outputs.append(forward())
    for _ in range(ROUNDS):
        for i, order in enumerate(orders):
            with sdpa_kernel(order, set_priority=True):
                seconds[i] = min(seconds[i], _timed(forward, device))
    return list(zip(outputs, seconds, strict=True))


def _timed(forward: Callable[[], torch.Tensor], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    forward()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started
