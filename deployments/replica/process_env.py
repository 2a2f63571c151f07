"""Environment variables of a model's process. torch reads them once, when it is imported."""

import os

# Each layer allocates its activations anew, which the kernel serves page by page. SD1.5's VAE at 512 px on two cores
# spends 1.9 s in the kernel with 2 MB pages, 6.3 s with 4 KB pages.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}

# torch's OpenMP lets waiting threads spin, on cores that the router, another model or OpenVINO's threads need. On two
# cores two models make 9.9 UNet steps/s together with sleeping threads and 3.4 with spinning ones; one alone makes 7.7
# and 9.1.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def prepare_for_torch() -> None:
    """Set the variables that are not set yet."""
    for name, value in (LARGE_PAGES | SLEEPING_THREADS).items():
        os.environ.setdefault(name, value)
