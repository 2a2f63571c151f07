"""Pixels in memory that the router and a model on the same host both map: a socket would copy them ten times.

The sharing process owns the memory. The memory has no name in a file system, so it ends with the processes that map
it. It is pooled and shared again, because the system takes longer to allocate memory than to copy pixels.
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

MIN_BYTES = 64 * 1024  # smaller pixels are faster sent
POOLED_BYTES = 4 * 1024**2  # of one piece of pooled memory: source and result of 836 x 836 pixels
POOL_SIZE = 16  # pieces
TOKEN_BYTES = 16
PLACEHOLDER: Pixels = np.empty((0, 0, 3), np.uint8)  # in a request or output whose pixels are shared


class NotShared(Exception):
    """The memory is on another host, cannot be had or mapped, or its owner has stopped sharing it."""


@dataclass(frozen=True, slots=True)
class SharedBuffer:
    """The address of shared pixels: the file `path` on `host`, valid while the file ends with `token`."""

    host: str
    path: str
    token: bytes
    shape: tuple[int, ...]

    def map(self) -> SharedPixels:
        """Map the memory into this process. Raises NotShared."""
        if self.host != HOST:
            raise NotShared(self.host)
        memory = _mapped.get(self.path)
        if memory is None or memory[-TOKEN_BYTES:] != self.token:
            memory = self._open()
        return SharedPixels.within(memory, self.shape)

    def _open(self) -> mmap.mmap:
        try:
            with open(self.path, "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:  # a ValueError for an empty file
            raise NotShared(self.path) from error
        if memory[-TOKEN_BYTES:] != self.token:
            raise NotShared(self.path)
        if len(memory) <= POOLED_BYTES:
            _mapped[self.path] = memory
        return memory


@dataclass(frozen=True, slots=True, eq=False)
class SharedPixels:
    """One process's view of the memory: the owner writes `source`, the model `result`, both of one shape."""

    source: Pixels
    result: Pixels

    @classmethod
    def within(cls, memory: mmap.mmap, shape: tuple[int, ...]) -> SharedPixels:
        values = np.frombuffer(memory, np.uint8, count=2 * int(np.prod(shape)))
        return cls(*values.reshape(2, *shape))


class _Memory:
    """A piece of memory that this process owns. Raises NotShared, for lack of descriptors or of memory."""

    def __init__(self, size: int) -> None:
        try:
            self._descriptor = os.memfd_create("pixels")
        except OSError as error:
            raise NotShared("no descriptor") from error
        try:
            os.ftruncate(self._descriptor, size)
            self.mapped = mmap.mmap(self._descriptor, size)
        except OSError as error:
            self.close()
            raise NotShared("no memory") from error
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def mark(self, token: bytes) -> None:
        self.mapped[-TOKEN_BYTES:] = token

    def close(self) -> None:
        """Stop sharing it for good. Existing views stay valid."""
        os.close(self._descriptor)

    def release(self, *, once_unused: Pixels) -> None:
        """Return it to the pool once no view of the pixels is left."""
        weakref.finalize(once_unused.base, self._release).atexit = False

    def _release(self) -> None:
        if len(self.mapped) <= POOLED_BYTES and len(_pool) < POOL_SIZE:
            _pool.append(self)
        else:
            self.close()


_pool: list[_Memory] = []
_mapped: LRUCache[str, mmap.mmap] = LRUCache(2 * POOL_SIZE)  # memory of other processes, by path


def is_worth_sharing(pixels: Pixels) -> bool:
    return pixels.nbytes >= MIN_BYTES and HOST != ""


@contextmanager
def share(pixels: Pixels) -> Iterator[tuple[SharedBuffer, SharedPixels]]:
    """Share pixels with another process until the end of the block; the owner's view stays valid after it.

    Raises NotShared. After an exception the other process may still be writing, so this memory is never shared again.
    """
    needed = 2 * pixels.nbytes + TOKEN_BYTES
    memory = _pool.pop() if needed <= POOLED_BYTES and _pool else _Memory(max(needed, POOLED_BYTES))
    shared = SharedPixels.within(memory.mapped, pixels.shape)
    shared.source[...] = pixels
    buffer = SharedBuffer(HOST, memory.path, secrets.token_bytes(TOKEN_BYTES), pixels.shape)
    memory.mark(buffer.token)
    try:
        yield buffer, shared
    except BaseException:
        memory.mark(bytes(TOKEN_BYTES))
        memory.close()
        raise
    memory.mark(bytes(TOKEN_BYTES))
    memory.release(once_unused=shared.source)


def attach(request: Img2ImgRequest, buffer: SharedBuffer | None) -> tuple[Img2ImgRequest, SharedPixels | None]:
    """The request with its pixels, shared or sent. Raises NotShared."""
    if buffer is None:
        return request, None
    shared = buffer.map()
    return replace(request, pixels=shared.source), shared


def write_back(output: Img2ImgOutput, shared: SharedPixels | None) -> Img2ImgOutput:
    """The output to reply with: its pixels are written to the request's shared memory, if there is any."""
    if shared is None:
        return output
    shared.result[...] = output.pixels
    return replace(output, pixels=PLACEHOLDER)


def _host() -> str:
    """Identifies this host's boot and process namespace; "" where memory cannot be shared."""
    if not hasattr(os, "memfd_create"):
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


HOST = _host()
