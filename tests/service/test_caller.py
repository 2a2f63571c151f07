"""Calls of a model's deployment by the router's client, with shared or sent pixels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Progress
from deployments.handles.caller import ModelClient
from deployments.handles.shared_memory import SharedBuffer, attach, write_back

pytestmark = pytest.mark.service
LARGE, SMALL = (256, 192, 3), (32, 48, 3)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Inverter:
    """Inverts pixels. `is_remote`: it can map no shared memory, as on another host."""

    def __init__(self, is_remote: bool) -> None:
        self._is_remote = is_remote
        self._shared_calls = 0

    async def img2img(self, request: Img2ImgRequest, buffer: SharedBuffer | None = None) -> Img2ImgOutput:
        self._shared_calls += buffer is not None
        if buffer is not None and self._is_remote:
            buffer = replace(buffer, host="another host")
        request, shared = attach(request, buffer)
        if request.prompt == "refuse":
            raise InvalidRequest("prompt must not be that", "prompt")
        return write_back(Img2ImgOutput(request.request_id, 255 - request.pixels, 1), shared)

    async def img2img_events(
        self, request: Img2ImgRequest, buffer: SharedBuffer | None = None
    ) -> AsyncIterator[Progress | Img2ImgOutput]:
        output = await self.img2img(request, buffer)
        yield Progress(0, 1, 1)
        yield output

    def shared_calls(self) -> int:
        return self._shared_calls


Deploy = Callable[[bool], DeploymentHandle]


@pytest.fixture(scope="module")
def deploy(cluster: None) -> Deploy:
    serve.start(proxy_location="Disabled")
    inverter: Any = Inverter

    def run(is_remote: bool) -> DeploymentHandle:
        handle: DeploymentHandle = serve.run(inverter.bind(is_remote), name="inverter", route_prefix=None)
        return handle

    return run


def request(shape: tuple[int, ...], prompt: str = "") -> Img2ImgRequest:
    return Img2ImgRequest("id", np.random.default_rng(0).integers(0, 256, shape, np.uint8), prompt)


async def shared_calls(handle: DeploymentHandle) -> int:
    count: int = await handle.shared_calls.remote()
    return count


async def inverted_by(caller: ModelClient, requested: Img2ImgRequest) -> list[Progress]:
    """Call twice, the second time with progress, which is returned."""
    progress: list[Progress] = []
    for output in (await caller.img2img(requested), await caller.img2img(requested, progress.append)):
        assert np.array_equal(output.pixels, 255 - requested.pixels)
    return progress


@pytest.mark.parametrize(("shape", "shared"), [(LARGE, 2), (SMALL, 0)])
async def test_large_pixels_are_shared_and_small_ones_sent(deploy: Deploy, shape: tuple[int, ...], shared: int) -> None:
    handle = deploy(False)
    before = await shared_calls(handle)
    assert len(await inverted_by(ModelClient(handle), request(shape))) == 1
    assert await shared_calls(handle) - before == shared


async def test_remote_model_is_sent_the_pixels_after_one_failed_share(deploy: Deploy) -> None:
    handle = deploy(True)
    caller, before = ModelClient(handle), await shared_calls(handle)
    await inverted_by(caller, request(LARGE))
    await inverted_by(caller, request(LARGE))
    assert await shared_calls(handle) - before == 1


async def test_remote_model_reports_progress_from_the_first_call_on(deploy: Deploy) -> None:
    progress: list[Progress] = []
    output = await ModelClient(deploy(True)).img2img(request(LARGE), progress.append)
    assert np.array_equal(output.pixels, 255 - request(LARGE).pixels)
    assert len(progress) == 1


async def test_refusal_and_pixels_of_many_calls_at_once_keep_apart(deploy: Deploy) -> None:
    caller = ModelClient(deploy(False))
    requests = [replace(request(LARGE), pixels=np.full(LARGE, number, np.uint8)) for number in range(32)]
    outputs = await asyncio.gather(*(caller.img2img(one) for one in requests))
    assert [int(output.pixels[0, 0, 0]) for output in outputs] == [255 - number for number in range(32)]
    assert all((output.pixels == output.pixels[0, 0, 0]).all() for output in outputs)
    with pytest.raises(InvalidRequest, match="must not be that"):
        await caller.img2img(request(LARGE, "refuse"))
