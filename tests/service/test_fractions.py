"""Models share GPUs by fractions, and the application works while one of them waits for room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, png, serving

pytestmark = pytest.mark.service
IMAGE = png(smooth_image(1, 64, 64))


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path]) -> Iterator[Service]:
    """Three models of half a GPU each, on a Ray that was told of one GPU."""
    model: dict[str, Any] = {"checkpoint": str(checkpoints("sd15")), "device": "cpu", "dtype": "float32"}
    names = [f"model-{number}" for number in range(3)]
    half = {"ray_actor_options": {"num_cpus": 0.1, "num_gpus": 0.5}}
    with pytest.MonkeyPatch.context() as environment:
        for name in ("WARNING_S", "WARNING_PERIOD_S"):  # Serve says why a replica waits after half a minute by itself
            environment.setenv(f"RAY_SERVE_SLOW_STARTUP_{name}", "3")
        with serving(
            dict.fromkeys(names, model),
            deployments=dict.fromkeys(names, half),
            wait_for=2,
            num_gpus=1,
            limits={"deadline_s": 4},
        ) as service:
            yield service


def test_two_halves_are_ready_and_the_third_says_what_it_waits_for(service: Service) -> None:
    waiting = [card for card in service.models().values() if not card["ready"]]
    assert len(waiting) == 1
    # Serve says why only after some seconds; until then the card says that the replica is starting.
    assert "STARTING" in waiting[0]["reason"] or "Resources required" in waiting[0]["reason"]
    reason = eventually(lambda: _reason(service, waiting[0]["id"], "Resources required"))
    assert '"GPU": 0.5' in reason


def _reason(service: Service, model: str, wanted: str) -> str:
    reason: str = service.models()[model]["reason"]
    return reason if wanted in reason else ""


def test_ready_models_serve_while_one_waits(service: Service) -> None:
    for model, card in service.models().items():
        reply = service.post(IMAGE, model=model, strength="0.5", num_inference_steps="2")
        assert reply.status_code == (200 if card["ready"] else 503), reply.text
        if not card["ready"]:
            assert reply.json()["error"]["code"] == "model_not_ready"
            assert reply.headers["retry-after"]


def test_deadline_is_a_504(service: Service) -> None:
    model = next(card["id"] for card in service.models().values() if card["ready"])
    large = png(smooth_image(2, 512, 512))
    reply = service.post(large, model=model, strength="1", num_inference_steps="150")
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    stats = eventually(lambda: (stats := service.stats(model))["aborted"] and stats)
    assert (stats["aborted"], stats["running"], stats["waiting"]) == (1, 0, 0)
