"""The gate before every route: who has no key stays outside, who has one gets as much as is theirs."""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.errors import AUTHENTICATION, LIMITED, reply
from deployments.auth.keys import Key, Keys

WANTED = "an API key is needed, in the header Authorization: Bearer KEY"


class KeyGate:
    """Middleware that wants a key for all but the `public` paths. Each replica of the router counts for itself.

    `seen` hears of each request: the name of its key ("unknown" without one) and the status it got.
    """

    def __init__(self, app: ASGIApp, keys: Keys, public: Sequence[str], seen: Callable[[str, int], None]) -> None:
        self._app = app
        self._keys = keys
        self._public = public
        self._seen = seen
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._running = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or any(fnmatchcase(scope["path"], path) for path in self._public):
            await self._app(scope, receive, send)
        elif (key := self._keys.find(token_of(Headers(scope=scope).get("authorization", "")))) is None:
            await reply(AUTHENTICATION, WANTED)(scope, receive, self._counted(send, "unknown"))
        elif (refusal := self._refusal(key)) is not None:
            await refusal(scope, receive, self._counted(send, key.name))
        else:
            self._running[key.name] += 1
            try:
                await self._app(scope, receive, self._counted(send, key.name))
            finally:
                self._running[key.name] -= 1

    def _counted(self, send: Send, name: str) -> Send:
        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._seen(name, message["status"])
            await send(message)

        return count

    def _refusal(self, key: Key) -> ASGIApp | None:
        if key.concurrency is not None and self._running[key.name] >= key.concurrency:
            return reply(LIMITED, f"this key may have {key.concurrency} requests running at once", 1.0)
        if key.rate is not None and not self._limiter.hit(key.rate, key.name):
            wait_s = self._limiter.get_window_stats(key.rate, key.name).reset_time - time.time()
            return reply(LIMITED, f"this key may make {key.rate} requests", max(wait_s, 1.0))
        return None


def token_of(authorization: str) -> str:
    """The key of `Bearer KEY`, or the password of `Basic ...`, which AUTOMATIC1111's clients send; "" without one."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode(errors="replace").partition(":")[2]
        except binascii.Error:
            return ""
    return ""
