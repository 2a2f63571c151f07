"""ASGI middleware: API keys with their rate and concurrency limits."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from fastapi.datastructures import Headers
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.documentation import PAGES
from deployments.api.errors import AUTHENTICATION, LIMITED, reply
from deployments.auth.key_store import Key, Keys

KEY_REQUIRED = "an API key is required in the header Authorization: Bearer KEY"
CALLER = "img2img.caller"  # of a request's scope


def caller_of(scope: Scope) -> str:
    """The name of the request's key; "" without keys, or on a public path."""
    caller: str = scope.get(CALLER, "")
    return caller


class KeyGate:
    """Requires an API key for all paths but the `public` ones. Each replica of the router counts separately.

    `on_reply` is called for each reply with the name of the request's key ("unknown" without one) and the status.
    `caller_of` returns the name to the routes.
    """

    def __init__(self, app: ASGIApp, keys: Keys, public: Sequence[str], on_reply: Callable[[str, int], None]) -> None:
        self._app = app
        self._keys = keys
        self._public = public
        self._on_reply = on_reply
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._running = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or matches(scope, self._public):
            await self._app(scope, receive, send)
        elif (key := self._keys.find(token_of(Headers(scope=scope).get("authorization", "")))) is None:
            refusal = reply(AUTHENTICATION, KEY_REQUIRED)
            if matches(scope, PAGES):
                refusal.headers.append("WWW-Authenticate", 'Basic realm="API key as password"')
            await refusal(scope, receive, self._counted(send, "unknown"))
        elif (limited := self._limited(key)) is not None:
            await limited(scope, receive, self._counted(send, key.name))
        else:
            self._running[key.name] += 1
            try:
                await self._app({**scope, CALLER: key.name}, receive, self._counted(send, key.name))
            finally:
                self._running[key.name] -= 1

    def _counted(self, send: Send, name: str) -> Send:
        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._on_reply(name, message["status"])
            await send(message)

        return count

    def _limited(self, key: Key) -> ASGIApp | None:
        if key.concurrency is not None and self._running[key.name] >= key.concurrency:
            return reply(LIMITED, f"this key allows {key.concurrency} concurrent requests", 1.0)
        if key.rate is not None and not self._limiter.hit(key.rate, key.name):
            wait_s = self._limiter.get_window_stats(key.rate, key.name).reset_time - time.time()
            return reply(LIMITED, f"this key allows {key.rate} requests", max(wait_s, 1.0))
        return None


def matches(scope: Scope, patterns: Sequence[str]) -> bool:
    """Whether the request's path within the application, without its `route_prefix`, matches one of the patterns."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :] or "/"
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def token_of(authorization: str) -> str:
    """The key of `Bearer KEY`, or the password of `Basic ...`, which AUTOMATIC1111's clients send; "" without one."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode(errors="replace").partition(":")[2]
        except ValueError:  # also for characters that are not ASCII
            return ""
    return ""
