"""HEAD and OPTIONS, which load balancers, monitors and browsers send."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.api_keys import SECRET, bearer, line
from tests.support.in_process import api

PATHS = ["/", "/healthz", "/v1/models", "/v1/models/a", "/docs", "/openapi.json", "/sdapi/v1/options", "/nowhere"]


@pytest.mark.parametrize("path", [*PATHS, "/playground/app.js"])
async def test_head_is_get_without_the_body(path: str) -> None:
    async with api() as served:
        get, head = [await served.client.request(method, path) for method in ("GET", "HEAD")]
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers == get.headers


async def test_head_of_what_only_takes_post_is_not_allowed() -> None:
    async with api() as served:
        assert (await served.client.head("/v1/img2img")).status_code == 405


async def test_reply_to_a_method_that_is_not_allowed_names_those_that_are() -> None:
    async with api() as served:
        reply = await served.client.get("/v1/img2img")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["code"] == "method_not_allowed"


async def test_head_needs_the_key_that_get_needs(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(line("alice", SECRET))
    async with api(keys={"file": str(tmp_path / "keys.yaml")}) as served:
        for path, status in (("/v1/models", 401), ("/healthz", 200), ("/", 200)):
            assert (await served.client.head(path)).status_code == status
        assert (await served.client.head("/v1/models", headers=bearer(SECRET))).status_code == 200
