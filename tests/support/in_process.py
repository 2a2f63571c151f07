"""The HTTP API in the test's own process: the real service, contracts and shared state, over models of one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx

from deployments.api import build_api
from deployments.api.webui.state import WebuiState
from deployments.api.webui.tasks import WebuiTasks
from deployments.config import AppConfig
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Progress
from deployments.service import Img2ImgService


class Inverter:
    """A model whose image is the inverted source. It notes the requests, and works on none before `start` is set."""

    def __init__(self) -> None:
        self.requests: list[Img2ImgRequest] = []
        self.start, self.proceed, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None  # what it raises in place of an image
        self.start.set()
        self.proceed.set()

    async def img2img(self, request: Img2ImgRequest, buffer: None) -> Img2ImgOutput:
        self.requests.append(request)
        try:
            await self.start.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return Img2ImgOutput(request.request_id, 255 - request.pixels, request.num_denoise_steps)

    async def img2img_events(self, request: Img2ImgRequest, buffer: None) -> AsyncIterator[Progress | Img2ImgOutput]:
        """One step, and the image once `proceed` is set."""
        image = await self.img2img(request, buffer)
        yield Progress(0, 1, image.num_denoise_steps)
        await self.proceed.wait()
        yield image

    async def describe(self) -> dict[str, Any]:
        return {"family": "inverter"}


class Handle:
    """Calls methods of an object of this process as Serve's handles call those of a replica."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._instance, name))

    def options(self, stream: bool) -> Handle:
        return self


class _Method:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Any:
        reply = self._method(*arguments)
        return asyncio.ensure_future(reply) if isinstance(reply, Coroutine) else _Stream(reply)


class _Stream:
    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events

    def cancel(self) -> None:
        """As Serve's generators; the caller's own task is cancelled in these tests."""


class Ready:
    """Readiness of models that are, but for those with a reason."""

    def __init__(self, models: dict[str, Any]) -> None:
        self._models = models
        self.reasons: dict[str, str] = {}

    async def ready(self, wanted: str | None = None) -> set[str]:
        return set(self._models) - set(self.reasons)

    async def reason(self, model_id: str) -> str:
        return self.reasons.get(model_id, "")

    async def describe(self) -> dict[str, dict[str, Any]]:
        return {model_id: {"ready": model_id not in self.reasons} for model_id in self._models}


class Api:
    """A client of the API with this configuration, and the models behind it by id: without `models` one, `a`."""

    def __init__(self, **config: Any) -> None:
        models = config.pop("models", {"a": {"checkpoint": "none"}})
        self.config = AppConfig(models=models, **config)
        self.models = {model_id: Inverter() for model_id in models}
        self.readiness = Ready(models)
        handles: Any = {model_id: Handle(model) for model_id, model in self.models.items()}
        readiness: Any = self.readiness
        state: Any = Handle(WebuiState.func_or_class())
        self.app = build_api(Img2ImgService(self.config, handles, readiness), WebuiTasks(state))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@asynccontextmanager
async def api(**config: Any) -> AsyncIterator[Api]:
    """The API with this configuration; without `models` with one, `a`."""
    served = Api(**config)
    async with served.client:
        yield served
