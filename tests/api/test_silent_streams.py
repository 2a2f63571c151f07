"""Streams of requests that wait: the headers and a sign of life come long before the first event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest

from deployments.api import sse
from deployments.errors import ModelNotReady
from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

SOURCE = png(smooth_image(3, 64, 48))
PATIENCE_S = 30  # of a test that would otherwise hang
NATIVE: tuple[str, dict[str, str], str] = ("/v1/img2img", {}, "event: completed")
OPENAI = ("/v1/images/edits", {"stream": "true", "partial_images": "0"}, "event: image_edit.completed")
STREAMS = [NATIVE, OPENAI]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(sse, "FIRST_EVENT_S", 0.02)
    monkeypatch.setattr(sse, "PING_S", 0.02)
    return Api()


class Reply:
    """The messages of an ASGI reply, as they come."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def start(self) -> tuple[int, dict[str, str]]:
        message = await asyncio.wait_for(self.messages.get(), PATIENCE_S)
        assert message["type"] == "http.response.start"
        return message["status"], {name.decode(): value.decode() for name, value in message["headers"]}

    async def chunk(self) -> str:
        text: str = (await asyncio.wait_for(self.messages.get(), PATIENCE_S))["body"].decode()
        return text


@asynccontextmanager
async def stream(served: Api, path: str, fields: dict[str, str]) -> AsyncIterator[Reply]:
    """POST the fields and the source; the caller goes away at the end."""
    fields = {"prompt": "a cat"} | fields
    headers = {"accept": "text/event-stream"}
    request = served.client.build_request("POST", path, data=fields, files={"image": SOURCE}, headers=headers)
    body, reply = [await request.aread()], Reply()

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        await reply.gone.wait()
        return {"type": "http.disconnect"}

    raw = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": raw, "scheme": "http", "server": ("127.0.0.1", 80), "root_path": ""}
    running = asyncio.create_task(served.app(scope, receive, reply.messages.put))
    yield reply
    reply.gone.set()
    await asyncio.wait_for(running, PATIENCE_S)


@pytest.mark.parametrize(("path", "fields", "completed"), STREAMS)
async def test_request_that_waits_has_its_headers_and_pings(
    path: str, fields: dict[str, str], completed: str, served: Api
) -> None:
    served.models["a"].start.clear()
    async with stream(served, path, fields) as reply:
        status, headers = await reply.start()
        assert (status, headers["x-accel-buffering"], headers["cache-control"]) == (200, "no", "no-cache")
        assert headers["content-type"].startswith("text/event-stream")
        assert [await reply.chunk() for _ in range(3)] == [": ping\n\n"] * 3
        served.models["a"].start.set()
        assert completed in await last_event(reply)


@pytest.mark.parametrize(("path", "fields", "completed"), STREAMS)
async def test_request_that_runs_without_previews_pings(
    path: str, fields: dict[str, str], completed: str, served: Api
) -> None:
    served.models["a"].proceed.clear()
    async with stream(served, path, fields) as reply:
        await reply.start()
        chunks = [await reply.chunk() for _ in range(5)]
        assert chunks[-1] == ": ping\n\n"
        served.models["a"].proceed.set()
        assert completed in await last_event(reply)


async def last_event(reply: Reply) -> str:
    while (chunk := await reply.chunk()) == ": ping\n\n" or "progress" in chunk:
        pass
    return chunk


@pytest.mark.parametrize(("path", "fields", "completed"), STREAMS)
async def test_caller_who_leaves_while_waiting_ends_the_request(
    path: str, fields: dict[str, str], completed: str, served: Api
) -> None:
    model = served.models["a"]
    model.start.clear()
    async with stream(served, path, fields) as reply:
        await reply.start()
        await reply.chunk()
    await asyncio.wait_for(model.cancelled.wait(), PATIENCE_S)


@pytest.mark.parametrize(("path", "fields", "completed"), STREAMS)
async def test_error_at_once_is_an_ordinary_reply(
    path: str, fields: dict[str, str], completed: str, served: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "FIRST_EVENT_S", PATIENCE_S)
    served.readiness.reasons["a"] = "it is loading"
    reply: httpx.Response = await served.client.post(
        path,
        data={"prompt": "a cat"} | fields,
        files={"image": SOURCE},
        headers={"accept": "text/event-stream"},
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_ready")


@pytest.mark.parametrize(("path", "fields", "completed"), STREAMS)
async def test_error_after_the_headers_is_an_event(
    path: str, fields: dict[str, str], completed: str, served: Api
) -> None:
    model = served.models["a"]
    model.start.clear()
    async with stream(served, path, fields) as reply:
        assert (await reply.start())[0] == 200
        model.error = ModelNotReady("a", "it has died")
        model.start.set()
        event = await last_event(reply)
        assert event.startswith("event: error\n" if path == NATIVE[0] else "data: ")
        data = json.loads(event.rpartition("data: ")[2])
        assert data["error"]["code"] == "model_not_ready"
