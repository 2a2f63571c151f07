"""Pixels between two processes of one machine in memory that both map, not through a socket that copies them ten times.

The lender owns the memory. It has no name in any file system, so it is gone with the processes that hold it. What a
picture needed is lent again for the next one, for the system takes longer to hand out memory than to copy pixels.
"""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cachetools import LRUCache

from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels

WORTH_LENDING = 64 * 1024  # bytes; what is smaller is faster sent
KEPT_BYTES = 4 * 1024**2  # of memory that is lent again: two pictures of 836 x 836 pixels
KEPT = 16  # pieces of it
TOKEN_BYTES = 16
SHARED: Pixels = np.empty((0, 0, 3), np.uint8)  # stands for pixels that are on loan


class Elsewhere(Exception):
    """The lender is on another machine, or has ended the loan."""


@dataclass(frozen=True, slots=True)
class Loan:
    """Where to find the pixels: on the machine `home`, as the file `path`, while that ends with the `token`."""

    home: str
    path: str
    token: bytes
    shape: tuple[int, ...]

    def accept(self) -> Shared:
        """Raises Elsewhere."""
        if self.home != HOME:
            raise Elsewhere(self.home)
        memory = _mapped.get(self.path)
        if memory is None or memory[-TOKEN_BYTES:] != self.token:
            memory = self._map()
        return Shared.within(memory, self.shape)

    def _map(self) -> mmap.mmap:
        try:
            with open(self.path, "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:  # a ValueError for an empty file
            raise Elsewhere(self.path) from error
        if memory[-TOKEN_BYTES:] != self.token:
            raise Elsewhere(self.path)
        if len(memory) <= KEPT_BYTES:
            _mapped[self.path] = memory
        return memory


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Both processes' view: the lender fills `source`, the borrower `result`, of the same shape."""

    source: Pixels
    result: Pixels

    @classmethod
    def within(cls, memory: mmap.mmap, shape: tuple[int, ...]) -> Shared:
        values = np.frombuffer(memory, np.uint8, count=2 * int(np.prod(shape)))
        return cls(*values.reshape(2, *shape))


class _Memory:
    """What a lender owns."""

    def __init__(self, size: int) -> None:
        self._descriptor = os.memfd_create("pixels")
        os.ftruncate(self._descriptor, size)
        self.mapped = mmap.mmap(self._descriptor, size)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def mark(self, token: bytes) -> None:
        self.mapped[-TOKEN_BYTES:] = token

    def close(self) -> None:
        """For good; views of it stay."""
        os.close(self._descriptor)

    def keep(self, *, once_unused: Pixels) -> None:
        """For another loan, as soon as nobody can look at the pixels any more."""
        weakref.finalize(once_unused.base, self._keep).atexit = False

    def _keep(self) -> None:
        if len(self.mapped) <= KEPT_BYTES and len(_kept) < KEPT:
            _kept.append(self)
        else:
            self.close()


_kept: list[_Memory] = []
_mapped: LRUCache[str, mmap.mmap] = LRUCache(2 * KEPT)  # of other processes


def is_worth_lending(pixels: Pixels) -> bool:
    return pixels.nbytes >= WORTH_LENDING and HOME != ""


@contextmanager
def lend(pixels: Pixels) -> Iterator[tuple[Loan, Shared]]:
    """Pixels for another process, until the end of the block; the lender's view stays good.

    An exception is an end without an answer: the borrower may still be writing, so this memory is never lent again.
    """
    needed = 2 * pixels.nbytes + TOKEN_BYTES
    memory = _kept.pop() if needed <= KEPT_BYTES and _kept else _Memory(max(needed, KEPT_BYTES))
    shared = Shared.within(memory.mapped, pixels.shape)
    shared.source[...] = pixels
    loan = Loan(HOME, memory.path, secrets.token_bytes(TOKEN_BYTES), pixels.shape)
    memory.mark(loan.token)
    try:
        yield loan, shared
    except BaseException:
        memory.mark(bytes(TOKEN_BYTES))
        memory.close()
        raise
    memory.mark(bytes(TOKEN_BYTES))
    memory.keep(once_unused=shared.source)


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
