"""Serve's headers that callers must not send: they would change the deadline and the end of a request.

Serve obeys them before the application sees the request, in its own proxy as in the routers behind HAProxy. Both take
middleware from RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy:middlewares, which is set where Ray starts.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SERVE_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")


class WithoutServeHeaders:
    """Removes SERVE_HEADERS from requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            kept = [(name, value) for name, value in scope["headers"] if name.lower() not in SERVE_HEADERS]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Serve, which calls this once in each of its HTTP servers."""
    return [Middleware(WithoutServeHeaders)]
