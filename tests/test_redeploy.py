"""`serve deploy` of another configuration, while requests come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ray import serve

from tests.pictures import file_of, gradient
from tests.service import APP, deploy, eventually, serving

pytestmark = pytest.mark.service


def being_built() -> bool:
    """Whether Serve is loading the application's code, and knows none of its deployments meanwhile."""
    return not serve.status().applications[APP].deployments


def test_models_stay_ready_while_a_new_configuration_is_built(checkpoints: Callable[[str], Path]) -> None:
    picture = file_of(gradient(), "png")
    with serving({"sd15": {"checkpoint": str(checkpoints("sd15"))}}) as service:
        deploy(service.app | {"args": service.app["args"] | {"seed": 5}})
        eventually(being_built)
        answers = []
        while being_built():
            answers.append(service.post(picture))
        assert {answer.status_code for answer in answers} == {200}
        assert len(answers) > 5
