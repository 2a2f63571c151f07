"""The first request for a model that is scaled to zero, whether the model can start or not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import ReplicaState
from ray.serve.schema import DeploymentStatus

from deployments.config import AppConfig
from deployments.errors import ModelNotReady
from deployments.handles import readiness
from deployments.handles.readiness import Readiness
from deployments.images.codec import NotAnImage
from deployments.schemas import Img2ImgOptions
from deployments.service import Img2ImgService
from tests.support.images import file_of, gradient
from tests.support.in_process import Handle, Inverter

IMAGE = file_of(gradient(), "png")
OPTIONS = Img2ImgOptions(prompt="a cat", model="asleep")
ERROR = "Retrying 0 more time(s). Error:\nTraceback:\nCheckpointError: no such folder"
AT_ZERO, TRYING = ("HEALTHY", "", ""), ("UPSCALING", "A replica failed to start. " + ERROR, "STARTING")
FAILED, RUNNING = ("UNHEALTHY", "The deployment failed to start 3 times. " + ERROR, ""), ("HEALTHY", "", "RUNNING")


class Asleep(Inverter):
    """A model whose calls wait for `start`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.start.clear()

    async def describe(self) -> dict[str, Any]:
        self.calls += 1
        try:
            await self.start.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {}


class Controller:
    """Serve's status of the models `asleep`, at zero until it is called, and `awake`.

    From the call on `asleep` has each of `states` once, and the last for ever: a status, its message, replicas' states.
    """

    def __init__(self, *states: tuple[str, str, str]) -> None:
        self.model = Asleep()
        self.states = list(states)
        self.calls = 0

    def __call__(self, app_name: str) -> dict[str, dict[str, Any]]:
        state = AT_ZERO
        if self.model.calls:
            state = self.states.pop(0) if self.states[1:] else self.states[0]
        return {"asleep": _details(*state), "awake": _details(*RUNNING)}


def _details(status: str, message: str, replicas: str) -> dict[str, Any]:
    states = [{"state": ReplicaState(state)} for state in replicas.split()]
    return {"status": DeploymentStatus(status), "message": message, "replicas": states}


@pytest.fixture(autouse=True)
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 0.0)


def served(controller: Controller, **model: Any) -> SimpleNamespace:
    """The service of the controller's models, with options of the model `asleep`, and its readiness."""
    handles: Any = {"asleep": Handle(controller.model), "awake": Handle(Inverter())}
    config = AppConfig.model_validate(
        {"models": {"asleep": {"checkpoint": "none"} | model, "awake": {"checkpoint": "none"}}}
    )
    models = Readiness("app", handles, controller)
    return SimpleNamespace(service=Img2ImgService(config, handles, models), readiness=models)


async def image_of(service: Img2ImgService) -> str:
    """The model that made an image for the model `asleep`."""
    (image,) = await service.images(await service.prepare(OPTIONS, IMAGE))
    return image.settings.model


@pytest.mark.parametrize("status", ["UNHEALTHY", "DEPLOY_FAILED"])
async def test_model_that_cannot_start_is_given_up_when_serve_does(status: str) -> None:
    controller = Controller(TRYING, TRYING, (status, *FAILED[1:]))
    async with asyncio.timeout(5):
        with pytest.raises(ModelNotReady, match="it could not start: no such folder"):
            await image_of(served(controller).service)
        await controller.model.cancelled.wait()  # or Serve would go on starting it for this call
    assert (controller.model.calls, controller.model.requests) == (1, [])


async def test_fallback_serves_the_first_request_for_a_model_that_cannot_start() -> None:
    controller = Controller(TRYING, FAILED)
    async with asyncio.timeout(5):
        service = served(controller, fallback=["awake"], defaults={"max_side": 64}).service
        prepared = await service.prepare(OPTIONS, IMAGE)
        assert (prepared.settings.model, prepared.fallback_for) == ("awake", "asleep")
        assert prepared.settings.max_side != 64
        assert len(await service.images(prepared)) == 1


async def test_failed_start_is_remembered_until_serve_has_scaled_the_model_to_zero_again() -> None:
    controller = Controller(FAILED)
    models = served(controller).readiness
    async with asyncio.timeout(5):
        assert [await models.reason("asleep") for _ in range(3)] == [await models.reason("asleep")] * 3 != [""] * 3
        assert controller.model.calls == 1
        controller.states = [AT_ZERO, RUNNING]
        controller.model.start.set()
        assert await models.reason("asleep") == ""
        assert controller.model.calls == 2


@pytest.mark.parametrize("fallback", [[], ["awake"]])
async def test_slow_start_is_waited_for(fallback: list[str]) -> None:
    controller = Controller(("UPSCALING", "", "STARTING"), TRYING, ("UPSCALING", "slow to initialize", "STARTING"))
    service = served(controller, fallback=fallback).service
    image = asyncio.create_task(image_of(service))
    async with asyncio.timeout(5):
        while controller.states[1:]:
            await asyncio.sleep(0)
    assert not image.done()
    controller.states = [RUNNING]
    controller.model.start.set()
    assert await asyncio.wait_for(image, 5) == "asleep"


@pytest.mark.parametrize("fallback", [[], ["awake"]])
async def test_wait_for_a_start_ends_at_the_deadline(fallback: list[str]) -> None:
    controller = Controller(("UPSCALING", "", "STARTING"))
    service = served(controller, fallback=fallback).service
    service.config = service.config.model_copy(
        update={"limits": service.config.limits.model_copy(update={"deadline_s": 0.1})}
    )
    with pytest.raises(TimeoutError):
        await image_of(service)
    await asyncio.wait_for(controller.model.cancelled.wait(), 5)


async def test_invalid_request_starts_no_model() -> None:
    controller = Controller(RUNNING)
    service = served(controller, fallback=["awake"]).service
    with pytest.raises(NotAnImage):
        await service.prepare(OPTIONS, b"no image")
    assert controller.model.calls == 0
