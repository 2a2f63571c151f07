"""Lets the engine's steps and the recording of graphs take turns: each has the device to itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """One is inside at a time, and whoever waits comes before whoever was inside last."""

    def __init__(self) -> None:
        self._turnstile, self._inside = threading.Lock(), threading.Lock()
        self._stepping: int | None = None

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Nobody else uses the device meanwhile."""
        with self._turnstile:  # held while waiting, or a busy engine would be inside again before anyone wakes up
            self._inside.acquire()
        try:
            yield
        finally:
            self._inside.release()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The same, on the way of a request."""
        with self.exclusively():
            self._stepping = threading.get_ident()
            try:
                yield
            finally:
                self._stepping = None

    def in_step(self) -> bool:
        """Whether this thread is on the way of a request."""
        return self._stepping == threading.get_ident()


DEVICE = Gate()  # one for the process, as CUDA's state is: a capture forbids much to every other thread
