"""Faster forms of a checkpoint's networks: which there are on this machine, and how a runner comes by them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec

from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.networks import Networks
from deployments.engine.runner import Runner

logger = logging.getLogger(__name__)


def compiled_forms(checkpoint: Checkpoint, max_rows: int, *, reproducible: bool = False) -> Iterator[Networks]:
    """The forms that are faster than torch's own here, each as soon as it is made, the fastest last."""
    if checkpoint.device.type == "cuda":
        from deployments.engine.accel.cuda.capture import cuda_forms

        yield from cuda_forms(checkpoint, max_rows)
    elif checkpoint.device.type == "cpu" and find_spec("openvino") is not None:
        from deployments.engine.accel.cpu.openvino_backend import compile_with_openvino

        yield compile_with_openvino(checkpoint, reproducible=reproducible)


def compile_first(runner: Runner, max_rows: int) -> None:
    """Have all forms made before the first request."""
    started, runner.compiling = time.perf_counter(), True
    try:
        for networks in compiled_forms(runner.checkpoint, max_rows, reproducible=runner.reproducible):
            runner.offer(networks)
            logger.info("compiled as %s in %.1f s", networks.form, time.perf_counter() - started)
    except Exception:  # whatever the compiler has, torch can run the networks
        logger.exception("the networks could not be compiled, and run as %s", runner.form)
    runner.compiling = False


def compile_meanwhile(runner: Runner, max_rows: int) -> None:
    """Have the forms made in a thread of their own, while the runner works with what it has."""
    runner.compiling = True
    threading.Thread(target=compile_first, args=(runner, max_rows), name="compiler", daemon=True).start()


def start_compiling(runner: Runner, max_rows: int, *, with_adapters: bool) -> None:
    """First or meanwhile, as it must be, or not at all.

    Forms round differently, so reproducible results must not depend on when one came: on a CPU there is but one, and it
    comes first; on CUDA more come whenever sizes do, so there are none. And OpenVINO reads the networks as they are at
    the moment, when nobody may be switching adapters.
    """
    on_cuda = runner.device.type == "cuda"
    if runner.reproducible and on_cuda:
        return
    (compile_first if runner.reproducible or (with_adapters and not on_cuda) else compile_meanwhile)(runner, max_rows)
