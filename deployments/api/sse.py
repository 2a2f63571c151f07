"""Server-Sent Events: streams of a request's progress, for every contract."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.sse import EventSourceResponse, format_sse_event
from PIL import Image

from deployments.api.errors import describe
from deployments.engine.request import Pixels, Progress
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService, PreparedRequest

Event = tuple[str | None, dict[str, Any]]  # name, where there is one, and data


async def follow(
    service: Img2ImgService, prepared: PreparedRequest
) -> AsyncGenerator[tuple[int, Progress] | list[Img2ImgResult], None]:
    """The number and progress of each image, and at the end all results. Raises what `service.images` raises.

    A slow reader gets only the latest progress. Closing the generator cancels the request.
    """
    latest: dict[int, Progress] = {}
    updated = asyncio.Event()

    def on_progress(number: int, progress: Progress) -> None:
        latest[number] = progress
        updated.set()

    task = asyncio.create_task(service.images(prepared, on_progress))
    task.add_done_callback(lambda _: updated.set())
    try:
        while not task.done():
            await updated.wait()
            updated.clear()
            for number in sorted(latest):
                yield number, latest.pop(number)
        yield task.result()
    finally:
        task.cancel()


async def respond(
    events: AsyncGenerator[Event, None], headers: dict[str, str], error_name: str | None = "error"
) -> EventSourceResponse:
    """A stream of the events. An error before the first event is an ordinary error reply, a later one is an event."""
    first = await anext(events)
    encoded = _encoded(first, events, error_name)
    return EventSourceResponse(encoded, headers=headers | {"cache-control": "no-cache"})


async def _encoded(
    first: Event, events: AsyncGenerator[Event, None], error_name: str | None
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            yield _bytes(first)
            async for event in events:
                yield _bytes(event)
        except Exception as error:
            yield _bytes((error_name, describe(error).model_dump()))


def _bytes(event: Event) -> bytes:
    name, data = event
    return format_sse_event(event=name, data_str=json.dumps(data))


def preview_png(preview: Pixels) -> str:
    """A preview as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(preview).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
