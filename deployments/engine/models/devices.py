"""Which device and dtype a checkpoint runs with: decided once, at load."""

from __future__ import annotations

import logging
import statistics
import time
from functools import cache
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WORTHWHILE = 1.2  # bfloat16 on a CPU must be this much faster, or float32 it is


def choose_device(device: str) -> torch.device:
    """The requested device; `auto` is CUDA, else MPS, else the CPU. Raises ValueError if it is not there."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next((kind for kind in found if found[kind]), "cpu")
    if not found.get(device.partition(":")[0], True):
        raise ValueError(f"device {device!r} was requested, but torch finds none")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device, *, overflows: bool, reproducible: bool) -> torch.dtype:
    """The requested dtype; `auto` goes by the device.

    CUDA: float16, or what has more range for a denoiser that `overflows`. MPS: float32. CPU: bfloat16 where the
    processor computes in it and that is measured faster, else float32; always float32 if `reproducible`, so that a
    measurement cannot change a promised image.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        return _beyond_float16(device) if overflows else torch.float16
    if device.type == "cpu" and not reproducible and bfloat16_gain() >= WORTHWHILE:
        return torch.bfloat16
    return torch.float32


class VaeDtypes(NamedTuple):
    """Of the VAE's two halves."""

    encoder: torch.dtype
    decoder: torch.dtype


def vae_dtypes(dtype: torch.dtype, device: torch.device, *, overflows: bool) -> VaeDtypes:
    """The dtypes of a VAE's halves: the denoiser's `dtype`, unless the VAE `overflows` in float16.

    Such a VAE encodes in float32, as in diffusers: an error in the start latents stays in every step. Where the
    denoiser has float16, the VAE decodes in bfloat16 if the device supports it.
    """
    if not overflows:
        return VaeDtypes(dtype, dtype)
    if dtype != torch.float16:
        return VaeDtypes(torch.float32, dtype)
    return VaeDtypes(torch.float32, _beyond_float16(device))


def _beyond_float16(device: torch.device) -> torch.dtype:
    """For values that float16 cannot hold: bfloat16 on a GPU that computes in it, else float32."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float32


@cache
def bfloat16_gain() -> float:
    """How many times faster this CPU runs a UNet-like convolution and matmul in bfloat16 than in float32."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return 0.0
    seconds = {dtype: _probe(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.float32] / seconds[torch.bfloat16]


@torch.inference_mode()
def _probe(dtype: torch.dtype) -> float:
    image, kernel = torch.ones(2, 320, 32, 32, dtype=dtype), torch.ones(320, 320, 3, 3, dtype=dtype)
    tokens, weight = torch.ones(2048, 640, dtype=dtype), torch.ones(1280, 640, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        torch.nn.functional.conv2d(image, kernel, padding=1)
        torch.nn.functional.linear(tokens, weight)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def configure_backends(device: torch.device) -> None:
    """Process-wide switches: TF32 for float32 matmuls on CUDA (its error is far below a pixel's step)."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def save_memory(pipeline: Any, device: torch.device) -> None:
    """The script's memory settings: sliced attention and VAE, xformers where installed, weights off the GPU when idle.

    Slower, much slower on CUDA: for a model that would not fit otherwise.
    """
    pipeline.enable_attention_slicing()
    pipeline.vae.enable_slicing()
    if device.type != "cuda":
        return
    try:
        pipeline.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError):
        logger.warning("memory_efficient: xformers is not installed, so attention is sliced instead")
    pipeline.enable_model_cpu_offload(device=device)
