"""A running model that is scaled to zero and cannot start: its first request, the next ones, and a folder job's."""

from __future__ import annotations

import pytest
from ray import serve

from deployments.errors import ModelNotReady
from deployments.schemas import Settings
from tests.support.images import file_of, gradient
from tests.support.service import APP, Service

pytestmark = [pytest.mark.service, pytest.mark.xdist_group("http-api")]
IMAGE = gradient()


def test_model_that_cannot_start_is_replaced_by_its_fallback_after_serves_tries(service: Service) -> None:
    assert service.models()["asleep"]["ready"]
    fields = {"model": "asleep", "num_inference_steps": "4", "strength": "0.5", "accept": "application/json"}
    for _ in range(2):
        reply = service.post(file_of(IMAGE, "png"), **fields)
        assert (reply.status_code, reply.headers["x-fallback-for"]) == (200, "asleep"), reply.text
    assert reply.elapsed.total_seconds() < 5  # the second one waits for no start
    assert "inpainting" in service.models()["asleep"]["reason"]

    settings = Settings(**reply.json()["parameters"] | {"model": "asleep"})
    router = serve.get_deployment_handle("router", APP)
    with pytest.raises(ModelNotReady, match="inpainting"):
        router.img2img.remote(IMAGE, settings).result(timeout_s=60)
