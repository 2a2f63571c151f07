"""Lets the engine's steps and the capture of graphs take turns: each has the device to itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceLock:
    """One thread holds it at a time, and a waiting thread comes before the one that held it last."""

    def __init__(self) -> None:
        self._turnstile, self._inside = threading.Lock(), threading.Lock()
        self._stepping: int | None = None

    @contextmanager
    def capture(self) -> Iterator[None]:
        """No other thread uses the device meanwhile."""
        with self._turnstile:  # held while waiting, or a busy engine would be inside again before anyone wakes up
            self._inside.acquire()
        try:
            yield
        finally:
            self._inside.release()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The same, while a request waits."""
        with self.capture():
            self._stepping = threading.get_ident()
            try:
                yield
            finally:
                self._stepping = None

    def in_step(self) -> bool:
        """Whether this thread is in a step, so that a request waits for it."""
        return self._stepping == threading.get_ident()


DEVICE_LOCK = DeviceLock()  # one for the process, as CUDA's state is: a capture forbids much to every other thread
