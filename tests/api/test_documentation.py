"""The pages that describe the API: without internet, behind keys, and under a route prefix."""

from __future__ import annotations

import re

import httpx2 as httpx
import pytest
from starlette.types import Receive, Scope, Send

from tests.support.api_keys import SECRET, bearer, line
from tests.support.in_process import Api

ADDRESS = re.compile(r"""(?:src|href)=["']([^"']+)|url: ["']([^"']+)|spec-url=["']([^"']+)""")


@pytest.fixture(scope="module")
def open_to_all() -> Api:
    return Api()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Api:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(line("alice", SECRET))
    return Api(keys={"file": str(path)})


def under(prefix: str, served: Api) -> httpx.AsyncClient:
    """A client of the API as Serve mounts it at `prefix`."""

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await served.app({**scope, "root_path": prefix}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://127.0.0.1")


@pytest.mark.parametrize("prefix", ["", "/img2img"])
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_every_file_of_a_page_comes_from_this_server(page: str, prefix: str, open_to_all: Api) -> None:
    async with under(prefix, open_to_all) as client:
        html = (await client.get(prefix + page)).text
        addresses = {next(filter(None, found)) for found in ADDRESS.findall(html)}
        assert len(addresses) >= 3
        assert [address for address in addresses if not address.startswith(f"{prefix}/")] == []
        assert {(await client.get(address)).status_code for address in addresses} == {200}


async def test_a_browser_asks_for_the_key_at_the_pages_only(keyed: Api) -> None:
    for path, asks in (("/docs", True), ("/redoc", True), ("/openapi.json", True), ("/v1/models", False)):
        refused = await keyed.client.get(path)
        assert refused.status_code == 401
        challenges = refused.headers.get_list("www-authenticate")
        assert [challenge.partition(" ")[0] for challenge in challenges] == ["Bearer", "Basic"][: 1 + asks]
        found = await keyed.client.get(path, auth=("anyone", SECRET))
        assert found.status_code == 200


async def test_the_description_says_how_to_send_a_key_and_where_none_is_needed(keyed: Api, open_to_all: Api) -> None:
    document = (await keyed.client.get("/openapi.json", headers=bearer(SECRET))).json()
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {"bearer": "bearer", "basic": "basic"}
    assert document["security"] == [{"bearer": []}, {"basic": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/img2img"]["post"]
    plain = (await open_to_all.client.get("/openapi.json")).json()
    assert "security" not in plain
    assert "securitySchemes" not in plain["components"]


async def test_public_paths_need_no_key_under_a_route_prefix(keyed: Api) -> None:
    async with under("/img2img", keyed) as client:
        paths = {"/img2img/healthz": 200, "/img2img/": 200, "/img2img/playground/app.js": 200, "/img2img": 307}
        paths |= {"/img2img/v1/models": 401, "/img2img/img2img/healthz": 401, "/img2imgx/healthz": 401}
        paths |= {"/img2img/docs": 401, "/img2img//healthz": 401}
        assert {path: (await client.get(path)).status_code for path in paths} == paths
        assert (await client.get("/img2img/v1/models", headers=bearer(SECRET))).status_code == 200
