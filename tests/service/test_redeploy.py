"""Models that start, and `serve deploy` of another configuration while requests come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray import serve

from deployments.handles.readiness import Readiness
from tests.support.images import file_of, gradient
from tests.support.service import APP, Service, deploy, eventually, serving

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def starting(checkpoints: Callable[[str], Path]) -> Iterator[Service]:
    with serving({"sd15": {"checkpoint": str(checkpoints("sd15"))}}, wait_for=0) as service:
        yield service


def runs() -> bool:
    return bool(serve.status().applications[APP].deployments["sd15"].replica_states.get("RUNNING"))


def being_built() -> bool:
    """Whether Serve is loading the application's code, and knows none of its deployments meanwhile."""
    return not serve.status().applications[APP].deployments


def test_model_that_runs_is_not_refused_because_it_did_not_run_a_moment_ago(starting: Service) -> None:
    handle = serve.get_deployment_handle("sd15", APP)

    async def asked_while_it_starts() -> bool:
        readiness = Readiness(APP, {"sd15": handle})
        assert "sd15" not in await readiness.ready("sd15")
        while not runs():
            await readiness.ready("sd15")
        return "sd15" in await readiness.ready("sd15")

    assert asyncio.run(asked_while_it_starts())


def test_models_stay_ready_while_a_new_configuration_is_built(starting: Service) -> None:
    eventually(lambda: starting.models()["sd15"]["ready"])
    image = file_of(gradient(), "png")
    deploy(starting.app | {"args": starting.app["args"] | {"seed": 5}})
    eventually(being_built)
    answers = []
    while being_built():
        answers.append(starting.post(image))
    assert {answer.status_code for answer in answers} == {200}
