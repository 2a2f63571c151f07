"""Which backends are faster than torch's eager networks on this machine, and when they are made."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec

from deployments.engine.networks import Backend, CompilableFamily

logger = logging.getLogger(__name__)


def compiled_backends(family: CompilableFamily, max_rows: int) -> Iterator[Backend]:
    """The faster backends, each as soon as it is made, the fastest last."""
    if family.device.type == "cuda":
        from deployments.engine.accel.cuda.backend import cuda_backends

        yield from cuda_backends(family, max_rows)
    elif family.device.type == "cpu" and find_spec("openvino") is not None:
        from deployments.engine.accel.cpu.openvino_backend import openvino_backend

        yield openvino_backend(family)


def compile_now(family: CompilableFamily, max_rows: int) -> None:
    """Make all backends before the first request. Raises what the compiler raises if images must be reproducible."""
    started, slot = time.perf_counter(), family.slot
    slot.compiling = True
    try:
        for backend in compiled_backends(family, max_rows):
            slot.swap_backend(backend)
            logger.info("backend %s after %.1f s", backend.name, time.perf_counter() - started)
    except Exception:  # whatever the compiler raises, torch can run the networks, but rounds otherwise
        if family.reproducible:
            raise
        logger.exception("the networks could not be compiled; the backend stays %s", slot.backend.name)
    slot.compiling = False


def compile_in_background(family: CompilableFamily, max_rows: int) -> None:
    """Make them in a thread of their own, while requests run on the backend that there is."""
    family.slot.compiling = True
    threading.Thread(target=compile_now, args=(family, max_rows), name="compiler", daemon=True).start()


def start_compiling(family: CompilableFamily, max_rows: int, *, with_loras: bool) -> None:
    """Compile now, in the background, or not at all.

    Backends round differently, so a reproducible result must not depend on when one is swapped in. On a CPU there is
    one, and it is made first. On CUDA new sizes are captured at any time, so there is none. OpenVINO reads the networks
    while it compiles, when nobody may be switching LoRAs.
    """
    on_cuda = family.device.type == "cuda"
    if family.reproducible and on_cuda:
        return
    now = family.reproducible or (with_loras and not on_cuda)
    (compile_now if now else compile_in_background)(family, max_rows)
