"""What a process that runs a model sets in its environment, where torch looks once: before torch is imported."""

import os

# Images' tensors are new memory at each layer, which the kernel hands out page by page; with pages of 2 MB instead
# of 4 KB a VAE spends a third as long in the kernel (benchmarks/pages.py).
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}

# OpenMP, which torch brings in, has waiting threads spin, on cores that the router, another model or OpenVINO's own
# threads need. Two models on two cores make three times as many steps per second together when they sleep, one alone a
# sixth less (benchmarks/contention.py).
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def prepare_for_torch() -> None:
    """Set what is not set already."""
    for name, value in (LARGE_PAGES | SLEEPING_THREADS).items():
        os.environ.setdefault(name, value)
