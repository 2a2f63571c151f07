"""Calls of a model's deployment by the router's means, pixels lent or sent."""

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
from deployments.handles.caller import ModelCaller
from deployments.handles.shared_memory import Loan, borrow, give_back

pytestmark = pytest.mark.service
LARGE, SMALL = (256, 192, 3), (32, 48, 3)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Inverter:
    """A model as far as calls go. `elsewhere`: no loan reaches it, as between machines."""

    def __init__(self, elsewhere: bool) -> None:
        self._elsewhere = elsewhere
        self._loans = 0

    async def img2img(self, request: Img2ImgRequest, loan: Loan | None = None) -> Img2ImgOutput:
        self._loans += loan is not None
        if loan is not None and self._elsewhere:
            loan = replace(loan, home="another machine")
        request, shared = borrow(request, loan)
        if request.prompt == "refuse":
            raise InvalidRequest("prompt must not be that", "prompt")
        return give_back(Img2ImgOutput(request.request_id, 255 - request.pixels, 1), shared)

    async def img2img_events(
        self, request: Img2ImgRequest, loan: Loan | None = None
    ) -> AsyncIterator[Progress | Img2ImgOutput]:
        output = await self.img2img(request, loan)
        yield Progress(0, 1, 1)
        yield output

    def loans(self) -> int:
        return self._loans


Deploy = Callable[[bool], DeploymentHandle]


@pytest.fixture(scope="module")
def deploy(cluster: None) -> Deploy:
    serve.start(proxy_location="Disabled")
    inverter: Any = Inverter

    def run(elsewhere: bool) -> DeploymentHandle:
        handle: DeploymentHandle = serve.run(inverter.bind(elsewhere), name="inverter", route_prefix=None)
        return handle

    return run


def request(shape: tuple[int, ...], prompt: str = "") -> Img2ImgRequest:
    return Img2ImgRequest("id", np.random.default_rng(0).integers(0, 256, shape, np.uint8), prompt)


async def loans(handle: DeploymentHandle) -> int:
    count: int = await handle.loans.remote()
    return count


async def inverted_by(caller: ModelCaller, asked: Img2ImgRequest) -> list[Progress]:
    """Ask twice, the second time for progress as well; what was told of it."""
    progress: list[Progress] = []
    for output in (await caller.img2img(asked), await caller.img2img(asked, progress.append)):
        assert np.array_equal(output.pixels, 255 - asked.pixels)
    return progress


@pytest.mark.parametrize(("shape", "lent"), [(LARGE, 2), (SMALL, 0)])
async def test_pixels_come_back_lent_or_sent(deploy: Deploy, shape: tuple[int, ...], lent: int) -> None:
    handle = deploy(False)
    before = await loans(handle)
    assert len(await inverted_by(ModelCaller(handle), request(shape))) == 1
    assert await loans(handle) - before == lent


async def test_model_on_another_machine_is_offered_one_loan_and_sent_the_pixels(deploy: Deploy) -> None:
    handle = deploy(True)
    caller, before = ModelCaller(handle), await loans(handle)
    await inverted_by(caller, request(LARGE))
    await inverted_by(caller, request(LARGE))
    assert await loans(handle) - before == 1


async def test_model_on_another_machine_tells_of_progress_from_the_first_call_on(deploy: Deploy) -> None:
    progress: list[Progress] = []
    output = await ModelCaller(deploy(True)).img2img(request(LARGE), progress.append)
    assert np.array_equal(output.pixels, 255 - request(LARGE).pixels)
    assert len(progress) == 1


async def test_refusal_and_pixels_of_many_calls_at_once_keep_apart(deploy: Deploy) -> None:
    caller = ModelCaller(deploy(False))
    asked = [replace(request(LARGE), pixels=np.full(LARGE, number, np.uint8)) for number in range(32)]
    outputs = await asyncio.gather(*(caller.img2img(one) for one in asked))
    assert [int(output.pixels[0, 0, 0]) for output in outputs] == [255 - number for number in range(32)]
    assert all((output.pixels == output.pixels[0, 0, 0]).all() for output in outputs)
    with pytest.raises(InvalidRequest, match="must not be that"):
        await caller.img2img(request(LARGE, "refuse"))
