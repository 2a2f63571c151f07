"""How a process that reads images gives their memory back."""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
LARGE_BYTES = 4 * 2**20  # a photo of 1.4 megapixels; below Pillow's blocks of 16 MiB


def return_large_buffers() -> None:
    """From now on, the memory of a large image goes back to the system as soon as the image is freed.

    glibc otherwise learns from the first one to keep such memory: a gigabyte, after some photos of 64 megapixels in
    several threads. Does nothing where the C library has no `mallopt`.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGE_BYTES)
