"""JSON bodies with a bound on the number of their values, checked before they are parsed.

Parsing holds the interpreter's lock, so in a thread it would stop the event loop all the same. A body of two images in
one string each takes 0.1 s; the same bytes as numbers would take ten seconds and gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

MAX_VALUES = 10_000


class _BoundedRequest(Request):
    async def json(self) -> Any:
        """As Request's. Raises HTTPException for too many values; commas in text count, those of prompts are few."""
        if (await self.body()).count(b",") > MAX_VALUES:
            raise HTTPException(413, f"the JSON body has more than {MAX_VALUES} values")
        return await super().json()


class JsonRoute(APIRoute):
    """A route whose JSON body has at most MAX_VALUES values."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            return await handle(_BoundedRequest(request.scope, request.receive))

        return handle_bounded
