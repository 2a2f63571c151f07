"""Opens a configured checkpoint as an engine, on its share of the machine.

Importing this imports torch and diffusers, which takes seconds: only who runs a model does it.
"""

from __future__ import annotations

import os

import torch

from deployments.config import ModelConfig
from deployments.engine.accel.backends import start_compiling
from deployments.engine.engine import Engine
from deployments.engine.models.checkpoint import load_checkpoint
from deployments.engine.runner import Runner

MAX_ROWS = {"cpu": 8, "mps": 8, "cuda": 32}  # of a step batch, where the configuration says nothing


def use_hardware(gpu_share: float) -> None:
    """Compute on all cores that this process may use, and on `gpu_share` of the GPU's memory."""
    # Ray pins a process that holds part of a CPU to one OpenMP thread; the cores are there to be used.
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Ray's GPU fractions are bookkeeping only; this makes an overdraft our own out-of-memory error.
    if 0 < gpu_share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpu_share)


def build_runner(model: ModelConfig) -> Runner:
    """Open the configured checkpoint. Raises CheckpointError."""
    checkpoint = load_checkpoint(
        model.source,
        revision=model.revision,
        device=model.device,
        dtype=model.dtype,
        reproducible=model.reproducible,
        memory_efficient=model.memory_efficient,
        loras=model.lora_files,
    )
    runner = Runner(checkpoint, reproducible=model.reproducible)
    if model.compile and not model.memory_efficient:
        start_compiling(runner, max_rows_of(model, runner), with_adapters=bool(model.loras))
    return runner


def build_engine(model: ModelConfig) -> Engine:
    """An engine for the configured checkpoint, with its cap on rows."""
    runner = build_runner(model)
    return Engine(runner, max_rows=max_rows_of(model, runner))


def max_rows_of(model: ModelConfig, runner: Runner) -> int:
    """The cap on a step batch's rows: configured, or the device's."""
    return model.max_rows or MAX_ROWS[runner.device.type]
