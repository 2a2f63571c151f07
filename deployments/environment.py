"""What a process that runs a model sets in its environment, where torch looks once: before torch is imported."""

import os

# Pictures' tensors are new memory at each layer, which the kernel hands out page by page; with pages of 2 MB instead
# of 4 KB a VAE spends a third as long in the kernel (benchmarks/pages.py).
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}

# OpenMP, which torch brings in, has waiting threads spin, on cores that another replica needs. Two on two cores made
# 2.7 steps per second together that way, and 29 when they sleep; one alone makes 26 and 16 (benchmarks/contention.py).
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def prepare_for_torch(*, shares_cores: bool) -> None:
    """Set what is not set already. `shares_cores` says that other processes compute on the same cores at times."""
    for name, value in (LARGE_PAGES | (SLEEPING_THREADS if shares_cores else {})).items():
        os.environ.setdefault(name, value)
