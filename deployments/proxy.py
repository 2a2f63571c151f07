"""Serve's headers that callers must not send: they would change the deadline and the end of a request.

Serve obeys them before the application sees the request, in its own proxy as in the routers behind HAProxy. Both take
middleware from RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy:middlewares, which is set where Ray starts.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SERVE_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
SERVE_TEXTS = (b"x-request-id", b"serve_multiplexed_model_id")  # Serve decodes them, and fails where it cannot


class WithoutServeHeaders:
    """Removes SERVE_HEADERS from requests, and those of SERVE_TEXTS that Serve could not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope = {**scope, "headers": [header for header in scope["headers"] if _may_pass(*header)]}
        await self._app(scope, receive, send)


def _may_pass(name: bytes, value: bytes) -> bool:
    if name.lower() in SERVE_TEXTS:
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    return name.lower() not in SERVE_HEADERS


def middlewares() -> list[Middleware]:
    """For Serve, which calls this once in each of its HTTP servers."""
    return [Middleware(WithoutServeHeaders)]
