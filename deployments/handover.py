"""Pixels between two processes of one machine in memory that both map, not through a socket that copies them ten times.

The lender owns the memory. It has no name in any file system, so it is gone with the processes that hold it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels

WORTH_LENDING = 64 * 1024  # bytes; what is smaller is faster sent
SHARED: Pixels = np.empty((0, 0, 3), np.uint8)  # stands for pixels that are on loan


class Elsewhere(Exception):
    """The lender is on another machine, or has ended the loan."""


@dataclass(frozen=True, slots=True)
class Loan:
    """Where to find the pixels: on the machine `home`, as the file `path` with this `inode` (paths are used again)."""

    home: str
    path: str
    inode: int
    shape: tuple[int, ...]

    def accept(self) -> Shared:
        """Raises Elsewhere."""
        if self.home != HOME:
            raise Elsewhere(self.home)
        try:
            with open(self.path, "r+b") as file:
                if os.fstat(file.fileno()).st_ino != self.inode:
                    raise Elsewhere(self.path)
                return Shared.map(file.fileno(), self.shape)
        except OSError as error:
            raise Elsewhere(self.path) from error


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Both processes' view: the lender fills `source`, the borrower `result`, of the same shape."""

    source: Pixels
    result: Pixels

    @classmethod
    def map(cls, descriptor: int, shape: tuple[int, ...]) -> Shared:
        return cls(*np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(2, *shape))


def is_worth_lending(pixels: Pixels) -> bool:
    return pixels.nbytes >= WORTH_LENDING and HOME != ""


@contextmanager
def lend(pixels: Pixels) -> Iterator[tuple[Loan, Shared]]:
    """Pixels for another process, until the end of the block; the lender's view stays good."""
    descriptor = os.memfd_create("pixels")
    try:
        os.ftruncate(descriptor, 2 * pixels.nbytes)
        shared = Shared.map(descriptor, pixels.shape)
        shared.source[...] = pixels
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        yield Loan(HOME, path, os.fstat(descriptor).st_ino, pixels.shape), shared
    finally:
        os.close(descriptor)


def borrow(request: Img2ImgRequest, loan: Loan | None) -> tuple[Img2ImgRequest, Shared | None]:
    """The request with its pixels, wherever they are. Raises Elsewhere."""
    if loan is None:
        return request, None
    shared = loan.accept()
    return replace(request, pixels=shared.source), shared


def give_back(output: Img2ImgOutput, shared: Shared | None) -> Img2ImgOutput:
    """The output to answer with: its pixels go the way that the request's came."""
    if shared is None:
        return output
    shared.result[...] = output.pixels
    return replace(output, pixels=SHARED)


def _home() -> str:
    """Names this machine since it was started, and the processes that can see each other; "" where none can lend."""
    if not hasattr(os, "memfd_create"):
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


HOME = _home()
