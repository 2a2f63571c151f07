"""A state of web UI clients that does not start is told as that, on every route that needs it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from deployments.api.webui.tasks import WebuiTasks
from tests.support.in_process import Api
from tests.support.reference import smooth_image
from tests.support.service import png

TEXT = base64.b64encode(png(smooth_image(3, 64, 48))).decode()


class Silent:
    """A handle of a deployment that no replica of starts."""

    def __getattr__(self, name: str) -> Silent:
        return self

    async def remote(self, *arguments: Any) -> None:
        await asyncio.Event().wait()


@pytest.fixture(scope="module")
def served() -> Api:
    api = Api()
    state: Any = Silent()
    api.app.state.webui_tasks = WebuiTasks(state, start_timeout_s=0.01)
    return api


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/sdapi/v1/img2img", {"init_images": [TEXT]}),
        ("GET", "/sdapi/v1/progress", None),
        ("GET", "/sdapi/v1/options", None),
        ("GET", "/internal/pending-tasks", None),
    ],
)
async def test_state_that_does_not_start_is_not_ready(method: str, path: str, body: Any, served: Api) -> None:
    reply = await served.client.request(method, path, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], "retry-after" in reply.headers) == (503, "model_not_ready", True), error
    assert "the state that web UI clients share is not ready" in error["message"]
