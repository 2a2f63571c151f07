"""Headers by which callers could change how Serve handles their requests change nothing."""

from __future__ import annotations

import re

import pytest

from deployments.config import REPO_ROOT
from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, png

pytestmark = [pytest.mark.service, pytest.mark.behind_haproxy, pytest.mark.xdist_group("http-api")]
SOURCE = png(smooth_image(3, 64, 48))
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy:middlewares"


@pytest.mark.parametrize("seconds", ["1e-9", "0.05", "0", "-1", "nan", "abc"])
def test_callers_timeout_is_not_obeyed(seconds: str, service: Service) -> None:
    headers = {"X-Request-Timeout-Seconds": seconds}
    health = service.client.get("/healthz", headers=headers)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    fields = {"strength": "1", "num_inference_steps": "40"}
    reply = service.client.post("/v1/img2img", data=fields, files={"image": SOURCE}, headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png"), reply.text
    with service.client.stream(
        "POST",
        "/v1/img2img",
        data=fields,
        files={"image": SOURCE},
        headers=headers | {"accept": "text/event-stream"},
    ) as stream:
        assert "event: completed" in stream.read().decode()


def test_caller_who_leaves_frees_the_engine_whatever_the_headers_say(service: Service) -> None:
    before = service.stats("sd15")["aborted"]
    headers = {"x-request-disconnect-disabled": "?1", "accept": "text/event-stream"}
    fields = {"strength": "1", "num_inference_steps": "150"}
    image = png(smooth_image(4, 256, 256))
    with service.client.stream("POST", "/v1/img2img", data=fields, files={"image": image}, headers=headers) as stream:
        next(stream.iter_lines())
    eventually(lambda: service.stats("sd15")["aborted"] == before + 1)


@pytest.mark.parametrize("name", ["x-request-id", "serve_multiplexed_model_id"])
def test_header_of_bytes_that_are_no_text_is_as_if_it_were_not_sent(name: str, service: Service) -> None:
    health = service.client.get("/healthz", headers={name: b"\xe9\xff"})
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("file", ["Makefile", "docs/operations.md", "configs/gpu.yaml"])
def test_ways_to_start_a_server_set_the_variable(file: str) -> None:
    text = (REPO_ROOT / file).read_text()
    assert re.search(rf"{re.escape(VARIABLE)}\b", text)
