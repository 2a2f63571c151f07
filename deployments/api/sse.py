"""Server-Sent Events: streams of a request's progress, for every contract."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi.sse import EventSourceResponse, format_sse_event
from PIL import Image

from deployments.api.errors import describe
from deployments.engine.request import Pixels, Progress
from deployments.schemas import Img2ImgResult
from deployments.service import Img2ImgService, PreparedRequest

Event = tuple[str | None, dict[str, Any]]  # name, where there is one, and data
FIRST_EVENT_S = 0.5  # how long the headers wait for the first event, so that an error can still be their status
PING_S = 10.0  # proxies cut a stream that is silent for 30 to 60 s
PING = b": ping\n\n"


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
    """A stream of the events, with comments while there are none.

    An error within FIRST_EVENT_S, before the first event, is an ordinary error reply; a later one is an event.
    """
    first = asyncio.ensure_future(anext(events))
    try:
        await asyncio.wait([first], timeout=FIRST_EVENT_S)
    except asyncio.CancelledError:
        await _close(events, first)
        raise
    if first.done():
        first.result()
    headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return EventSourceResponse(_encoded(first, events, error_name), headers=headers)


async def _encoded(
    coming: asyncio.Future[Event], events: AsyncGenerator[Event, None], error_name: str | None
) -> AsyncGenerator[bytes, None]:
    """The events from `coming` on. A comment is sent at once if that is not there yet, and after PING_S of silence."""
    silence_s = 0.0
    try:
        while True:
            await asyncio.wait([coming], timeout=silence_s)
            silence_s = PING_S
            if coming.done():
                yield _bytes(coming.result())
                coming = asyncio.ensure_future(anext(events))
            else:
                yield PING
    except StopAsyncIteration:
        return
    except Exception as error:
        yield _bytes((error_name, describe(error).model_dump()))
    finally:
        await _close(events, coming)


async def _close(events: AsyncGenerator[Event, None], coming: asyncio.Future[Event]) -> None:
    """End the request; a generator cannot be closed while it makes its next event."""
    coming.cancel()
    await asyncio.wait([coming])
    await events.aclose()


def _bytes(event: Event) -> bytes:
    name, data = event
    return format_sse_event(event=name, data_str=json.dumps(data))


def preview_png(preview: Pixels) -> str:
    """A preview as a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(preview).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
