"""What web pages of other sites can make a browser send: reads by DNS rebinding, writes across sites, and CORS."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from deployments.config import AppConfig
from tests.support.api_keys import SECRET, bearer, line
from tests.support.images import file_of, gradient
from tests.support.in_process import Api, api

PAGE = "http://localhost:5173"
CONTRACTS = ["/v1/img2img", "/v1/images/edits", "/models/a", "/sdapi/v1/img2img"]
PREFLIGHT = {"origin": PAGE, "access-control-request-method": "POST"}
PREFLIGHT |= {"access-control-request-headers": "content-type,authorization"}
OWN = ["127.0.0.1:8000", "192.168.1.7", "[::1]:8000", "[fe80::1%eth0]:8000", "127.1", "localhost:8000", "LOCALHOST."]
OWN += ["img2img:8000", "printer.local", "img2img.localhost:80", "node.internal", socket.gethostname(), ""]
FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "xlocal.example."]
FOREIGN += ["evil.example@localhost.example", "evil.example:8000:1", "[::1].evil.example:80x"]


async def status(served: Api, host: str, path: str = "/v1/models") -> int:
    return (await served.client.get(path, headers={"host": host})).status_code


@pytest.fixture(scope="module")
def served() -> Api:
    """The API without settings. Its description takes a second to make."""
    return Api()


@pytest.mark.parametrize("host", OWN)
async def test_addresses_and_names_that_nobody_can_register_are_served(host: str, served: Api) -> None:
    assert await status(served, host) == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_name_that_a_stranger_may_own_is_refused_and_the_setting_named(host: str, served: Api) -> None:
    refused = await served.client.get("/v1/models", headers={"host": host})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
    assert "trusted_hosts" in refused.json()["error"]["message"]


async def test_trusted_hosts_are_served() -> None:
    async with api(trusted_hosts=["images.example", "*.shop.example"]) as served:
        for host, expected in (("images.example", 200), ("IMAGES.example:443", 200), ("a.shop.example", 200)):
            assert await status(served, host) == expected
        assert [await status(served, host) for host in ("shop.example", "b.images.example")] == [403, 403]
    async with api(trusted_hosts=["*"]) as served:
        assert await status(served, "evil.example") == 200


CROSS_SITE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:5173"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"origin": "http://127.0.0.1:8000"},  # another port is another origin
]
OWN_PAGE_OR_PROGRAM = [
    {},
    {"origin": "http://127.0.0.1"},
    {"sec-fetch-site": "same-origin", "origin": "https://images.example"},  # behind a proxy that replaces Host
    {"sec-fetch-site": "none"},
    {"origin": "https://images.example", "x-forwarded-host": "images.example"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
@pytest.mark.parametrize("path", ["/v1/img2img", "/sdapi/v1/interrupt"])
async def test_a_page_of_another_site_changes_nothing(path: str, headers: dict[str, str], served: Api) -> None:
    refused = await served.client.post(path, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site_request")
    assert (await served.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", OWN_PAGE_OR_PROGRAM)
async def test_own_pages_and_programs_are_served(headers: dict[str, str], served: Api) -> None:
    assert (await served.client.post("/sdapi/v1/interrupt", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", CONTRACTS)
async def test_no_page_of_another_origin_may_read_without_the_setting(path: str, served: Api) -> None:
    preflight = await served.client.options(path, headers=PREFLIGHT)
    reply = await served.client.get("/v1/models", headers={"origin": PAGE})
    assert preflight.status_code == 405
    assert [name for name in (*preflight.headers, *reply.headers) if name.startswith("access-control")] == []


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """The API with one key, SECRET, for pages of one other origin."""
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(line("alice", SECRET))
    return Api(cors_origins=[PAGE], keys={"file": str(path)})


async def test_any_name_of_a_server_with_keys_is_served(keyed: Api) -> None:
    """A page that got in by DNS rebinding has no key."""
    found = await keyed.client.get("/v1/models", headers=bearer(SECRET) | {"host": "images.example"})
    assert found.status_code == 200


async def test_allowed_origins_get_preflight_without_a_key_and_readable_errors(keyed: Api) -> None:
    for path in CONTRACTS:
        preflight = await keyed.client.options(path, headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        sent = {"origin": PAGE, "sec-fetch-site": "same-site"}
        for more, expected in (({}, 401), (bearer(SECRET), 400)):
            error = await keyed.client.post(path, headers=sent | more, data={"strength": "7"})
            assert (error.status_code, error.headers["access-control-allow-origin"]) == (expected, PAGE)
        assert "x-seed" in error.headers["access-control-expose-headers"]
        stranger = {"origin": "https://evil.example"}
        assert "access-control-allow-origin" not in (await keyed.client.post(path, headers=stranger)).headers
        assert (await keyed.client.options(path, headers=PREFLIGHT | stranger)).status_code == 400


async def test_unexpected_errors_are_readable_by_allowed_origins_too() -> None:
    async with api(cors_origins=[PAGE]) as served:
        assert (await served.client.get("/v1/models")).status_code == 200
        del served.app.state.service
        error = await served.client.get("/v1/models", headers={"origin": PAGE})
    assert (error.status_code, error.headers["access-control-allow-origin"]) == (500, PAGE)


@pytest.mark.parametrize("origin", ["localhost:5173", "http://localhost:5173/", "https://", "http://a b", "http://a/b"])
def test_what_is_no_origin_is_refused_in_the_configuration(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        AppConfig.model_validate({"models": {"a": {"checkpoint": "none"}}, "cors_origins": [origin]})


async def test_allowed_pages_can_read_every_header_of_ours() -> None:
    models = {"a": {"checkpoint": "none", "fallback": ["b"]}, "b": {"checkpoint": "none"}}
    async with api(models=models, cors_origins=[PAGE]) as served:
        served.readiness.reasons["a"] = "it is loading"
        files = {"image": file_of(gradient(), "png")}
        reply = await served.client.post("/v1/img2img", files=files, headers={"origin": PAGE})
    assert reply.headers["x-fallback-for"] == "a"
    exposed = reply.headers["access-control-expose-headers"].split(", ")
    assert {name for name in reply.headers if name.startswith("x-")} <= set(exposed)
