"""Which models are ready, and what is known of them: without waking a model or depending on Serve's controller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import ReplicaState
from ray.serve.schema import DeploymentStatus

from deployments.handles import readiness
from deployments.handles.readiness import Readiness


class Model:
    """A handle that counts its calls of `describe`, and answers them once `answers` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.describe = SimpleNamespace(remote=self._describe)

    async def _describe(self) -> dict[str, Any]:
        self.calls += 1
        await self.answers.wait()
        return {"family": "sd", "calls": self.calls}


class Controller:
    """Serve's status: the replicas' states by deployment. Answers while `answers` is set."""

    def __init__(self, **replicas: str) -> None:
        self.replicas: dict[str, str] = replicas
        self.answers = threading.Event()
        self.answers.set()
        self.calls = 0

    def __call__(self, app_name: str) -> dict[str, dict[str, Any]]:
        self.calls += 1
        self.answers.wait()
        return {
            name: {
                "status": DeploymentStatus.UPDATING
                if states in ("STARTING", "RECOVERING")
                else DeploymentStatus.HEALTHY,
                "message": "",
                "replicas": [{"state": ReplicaState(state)} for state in states.split()],
            }
            for name, states in self.replicas.items()
        }


@pytest.fixture(autouse=True)
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(readiness, "STATUS_WAIT_S", 0.2)
    monkeypatch.setattr(readiness, "DESCRIBE_WAIT_S", 0.2)


@pytest.fixture
def controller() -> Iterator[Controller]:
    controller = Controller(warm="RUNNING", asleep="")
    yield controller
    controller.answers.set()  # or its thread never ends


def watching(controller: Controller, **models: Any) -> Readiness:
    return Readiness("app", models, controller)


async def test_listing_the_models_wakes_none_and_tells_what_a_sleeping_one_said_last(controller: Controller) -> None:
    warm, asleep = Model(), Model()
    models = watching(controller, warm=warm, asleep=asleep)
    described = await models.describe()
    assert described == {"warm": {"ready": True, "family": "sd", "calls": 1}, "asleep": {"ready": True}}
    assert asleep.calls == 0
    controller.replicas["warm"] = ""
    assert (await models.describe())["warm"] == {"ready": True, "family": "sd", "calls": 1}


async def test_listing_the_models_waits_for_no_model_that_does_not_answer(controller: Controller) -> None:
    warm = Model()
    models = watching(controller, warm=warm)
    warm.answers.clear()
    assert (await models.describe())["warm"] == {"ready": True}
    started = time.monotonic()
    assert (await models.describe())["warm"] == {"ready": True}  # it is still asked, so there is nothing to wait for
    assert (time.monotonic() - started, warm.calls) < (0.2, 2)
    warm.answers.set()
    await asyncio.sleep(0)
    assert (await models.describe())["warm"]["family"] == "sd"


async def test_a_model_that_a_new_controller_recovers_is_ready(controller: Controller) -> None:
    models = watching(controller, warm=Model())
    controller.replicas["warm"] = "RECOVERING"
    assert await models.reason("warm") == ""
    controller.replicas["warm"] = "STARTING"
    assert await models.reason("warm") == "UPDATING: replicas 1 STARTING"


async def test_requests_go_on_with_the_last_status_while_the_controller_does_not_answer(controller: Controller) -> None:
    models = watching(controller, warm=Model())
    assert await models.ready("warm") == {"warm"}
    controller.answers.clear()
    async with asyncio.timeout(2):
        assert await models.ready("warm") == {"warm"}
        started = time.monotonic()
        assert await asyncio.gather(*(models.ready("warm") for _ in range(100))) == [{"warm"}] * 100
    assert (time.monotonic() - started, controller.calls) < (0.2, 3)  # only the first one waited
    controller.answers.set()


async def test_the_last_status_holds_when_the_controller_fails(controller: Controller) -> None:
    controller.replicas["warm"] = "STARTING"
    models = watching(controller, warm=Model(), asleep=Model())
    assert await models.ready() == {"asleep"}
    del controller.replicas
    assert await models.ready("warm") == {"asleep"}


async def test_a_model_is_not_ready_before_its_first_status(controller: Controller) -> None:
    controller.answers.clear()
    models = watching(controller, warm=Model())
    assert "not told" in await models.reason("warm")
    controller.answers.set()
