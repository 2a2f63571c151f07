"""Environment variables of a model's process. torch reads them once, when it is imported."""

import os

# Each layer allocates its activations anew, which the kernel serves page by page. With pages of 2 MB instead of 4 KB,
# a VAE spends a third of the time in the kernel.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}

# torch's OpenMP lets waiting threads spin, on cores that the router, another model or OpenVINO's threads need. With
# sleeping threads, two models on two cores run three times as many steps per second; a single model runs a sixth less.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def prepare_for_torch() -> None:
    """Set the variables that are not set yet."""
    for name, value in (LARGE_PAGES | SLEEPING_THREADS).items():
        os.environ.setdefault(name, value)
