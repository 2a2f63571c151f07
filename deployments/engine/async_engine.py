"""The engine in a thread of its own, awaited from an event loop. The only module of the engine that knows asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deployments.engine.errors import EngineError, RequestAborted
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Progress

if TYPE_CHECKING:
    from deployments.engine.engine import Engine
    from deployments.engine.state import DenoiseState

logger = logging.getLogger(__name__)
STUCK_AFTER_S = 600.0  # a call of the runner this long hangs


class AsyncEngine:
    """Starts the engine thread at once. Every request that is accepted ends: in an image, an error or an abort."""

    def __init__(self, engine: Engine, *, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self._engine = engine
        self._stuck_after_s = stuck_after_s
        self._wakeup = threading.Condition()
        self._arrivals: deque[DenoiseState] = deque()
        self._departures: deque[str] = deque()
        self._futures: dict[str, Future[Img2ImgOutput]] = {}
        self._watches: dict[str, _Watch] = {}
        self._closing = False
        self._failure: BaseException | None = None
        self._busy_since: float | None = None
        self._stats = engine.stats()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: Img2ImgRequest) -> Img2ImgOutput:
        """The request's image. Cancelling this frees its rows at the next step boundary. Raises EngineError."""
        return await self.wait(request.request_id, self.submit([request])[0])

    def submit(self, requests: Sequence[Img2ImgRequest]) -> list[Future[Img2ImgOutput]]:
        """Queue requests together, so that they are encoded together; one future each, failed for invalid ones."""
        futures: list[Future[Img2ImgOutput]] = []
        states = []
        for request in requests:
            future: Future[Img2ImgOutput] = Future()
            future.set_running_or_notify_cancel()  # from now on only the engine resolves it
            futures.append(future)
            try:
                states.append((self._engine.runner.prepare(request), future))
            except Exception as exc:
                future.set_exception(exc)
        with self._wakeup:
            for state, future in states:
                self._enqueue(state, future)
            self._wakeup.notify()
        return futures

    def _enqueue(self, state: DenoiseState, future: Future[Img2ImgOutput]) -> None:
        request_id = state.request.request_id
        if self._closing or self._failure:
            future.set_exception(RequestAborted(f"the engine is not running: {self._failure or 'shutting down'}"))
        elif request_id in self._futures:
            future.set_exception(EngineError(f"request id {request_id} is in use"))
        else:
            self._futures[request_id] = future
            self._arrivals.append(state)

    async def wait(self, request_id: str, future: Future[Img2ImgOutput]) -> Img2ImgOutput:
        """The future's result; cancelling the waiter aborts the request."""
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.done():  # otherwise the id may belong to another request
                self.abort(request_id)
            raise

    async def events(self, request_id: str, future: Future[Img2ImgOutput]) -> AsyncGenerator[Progress, None]:
        """The progress of a submitted request, whenever it has changed, until its future is done.

        A slow reader misses some of it and delays nobody. Leaving before the end aborts the request.
        """
        watch = _Watch(asyncio.get_running_loop())
        with self._wakeup:
            self._watches[request_id] = watch
            self._wakeup.notify()
        future.add_done_callback(lambda _: watch.update(None))
        try:
            while not future.done():
                if (progress := await watch.next()) is not None:
                    yield progress
        finally:
            with self._wakeup:
                self._watches.pop(request_id, None)
            if not future.done():
                self.abort(request_id)

    def abort(self, request_id: str) -> None:
        """Abort a request at the next step boundary, wherever it is. Idempotent."""
        with self._wakeup:
            self._departures.append(request_id)
            self._wakeup.notify()

    def describe(self) -> dict[str, Any]:
        """What the checkpoint is and how it runs."""
        return self._engine.describe()

    def stats(self) -> dict[str, float]:
        """The engine's counters as of the last step boundary."""
        with self._wakeup:
            return {**self._stats, "waiting": self._stats["waiting"] + len(self._arrivals)}

    def check_health(self) -> None:
        """Raises EngineError if the thread is dead, or if one call of the runner takes too long."""
        if not self._thread.is_alive() and not self._closing:
            raise EngineError(f"the engine thread is dead: {self._failure!r}")
        since = self._busy_since
        if since is not None and time.monotonic() - max(since, self._engine.call_started) > self._stuck_after_s:
            raise EngineError(f"the engine has been in one step for over {self._stuck_after_s:g} s")

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop the thread at the next step boundary; unfinished requests end in RequestAborted."""
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while self._receive():
                self._busy_since = time.monotonic()
                self._publish_progress()
                finished = self._engine.step()
                self._busy_since = None
                with self._wakeup:
                    self._stats = self._engine.stats()
                    for request_id, result in finished:
                        self._resolve(request_id, result)
        except BaseException as exc:
            logger.exception("the engine thread died")
            self._failure = exc
        with self._wakeup:
            self._closing = self._closing or self._failure is None
            for request_id in list(self._futures):
                self._resolve(request_id, RequestAborted("the engine stopped before this image was done"))

    def _publish_progress(self) -> None:
        """Update the watches before each step: requests are queued, admitted, or have completed a step."""
        with self._wakeup:
            watches = list(self._watches.items())
        for request_id, watch in watches:
            watch.update(self._engine.progress(request_id))

    def _receive(self) -> bool:
        """Wait for something to do, receive arrivals and departures; False when it is time to stop."""
        with self._wakeup:
            self._wakeup.wait_for(lambda: self._closing or self._arrivals or self._departures or self._engine.has_work)
            if self._closing:
                return False
            self._engine.add(self._arrivals)
            self._arrivals.clear()
            while self._departures:
                request_id = self._departures.popleft()
                self._engine.abort(request_id)
                self._resolve(request_id, RequestAborted("the request was aborted"))
            self._stats = self._engine.stats()
            return True

    def _resolve(self, request_id: str, result: Img2ImgOutput | Exception) -> None:
        future = self._futures.pop(request_id, None)
        if future is None:
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


class _Watch:
    """The latest progress of one request, from the engine's thread to one reader's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = asyncio.Event()
        self._latest: Progress | None = None
        self._seen: tuple[int, int] | None = None

    def update(self, progress: Progress | None) -> None:
        """From any thread. None wakes the reader without progress."""
        with suppress(RuntimeError):  # the loop is closed: nobody reads
            self._loop.call_soon_threadsafe(self._put, progress)

    def _put(self, progress: Progress | None) -> None:
        self._latest = progress
        self._changed.set()

    async def next(self) -> Progress | None:
        """The progress, once it has changed; None if the reader was woken without a change."""
        await self._changed.wait()
        self._changed.clear()
        latest = self._latest
        if latest is None or (latest.place, latest.step) == self._seen:
            return None
        self._seen = (latest.place, latest.step)
        return latest
