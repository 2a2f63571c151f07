"""Builds the engine of a configured checkpoint, on its share of the machine. The only module that sees all of it.

Importing this imports torch and diffusers, which takes seconds: only a model's replica does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from deployments.config import ModelConfig
from deployments.engine.engine import Engine
from deployments.engine.models.families import load_family
from deployments.engine.networks import CompilableFamily
from deployments.engine.runner import Runner
from deployments.replica.cpus import usable_cpus

logger = logging.getLogger(__name__)
MAX_ROWS = {"cpu": 8, "mps": 8, "cuda": 32}  # of a step batch, where the configuration says nothing


def use_hardware(gpu_share: float, device: str = "auto") -> None:
    """Compute on all cores that this process may use, and on `gpu_share` of the memory of the configured GPU."""
    # Ray pins a process that holds part of a CPU to one OpenMP thread; the cores are there to be used.
    torch.set_num_threads(usable_cpus())
    # Ray's GPU fractions are bookkeeping only; this turns an overdraft into this process's out-of-memory error.
    if 0 < gpu_share < 1 and torch.cuda.is_available():
        number = device.partition(":")[2]  # of the GPU; without one it is torch's current GPU
        torch.cuda.set_per_process_memory_fraction(gpu_share, int(number) if number else None)


def build_engine(model: ModelConfig) -> Engine:
    """An engine for the configured checkpoint; faster backends may still be compiling. Raises CheckpointError."""
    family = load_family(
        model.source,
        reproducible=model.reproducible,
        revision=model.revision,
        device=model.device,
        dtype=model.dtype,
        prediction=model.prediction,
        memory_efficient=model.memory_efficient,
        loras=model.lora_files,
    )
    max_rows = model.max_rows or MAX_ROWS[family.device.type]
    engine = Engine(Runner(family, device_lock=_device_lock(family.device)), max_rows=max_rows)
    if model.compile and not model.memory_efficient:
        _start_compiling(family, max_rows, with_loras=bool(model.loras))
    return engine


def _device_lock(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Where graphs are captured, steps and captures take turns."""
    if device.type != "cuda":
        return nullcontext
    try:
        from deployments.engine.accel.cuda.device_lock import DEVICE_LOCK
    except ImportError:
        return nullcontext
    return DEVICE_LOCK.step


def _start_compiling(family: CompilableFamily, max_rows: int, *, with_loras: bool) -> None:
    try:
        from deployments.engine.accel.backends import start_compiling
    except ImportError as error:
        logger.warning("the networks run uncompiled: %s", error)
        return
    start_compiling(family, max_rows, with_loras=with_loras)
