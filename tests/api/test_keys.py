"""API keys: who has none stays outside and learns nothing, who has one gets as much as is theirs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from typer import Typer
from typer.testing import CliRunner

from deployments.api.key_gate import KeyGate, token_of
from deployments.auth.key_store import Keys
from deployments.config import KeysConfig
from deployments.keys import main
from tests.support.api_keys import MODEL, SECRET, bearer, line
from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, png

pytestmark = pytest.mark.xdist_group("api-keys")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(line("alice", SECRET) + line("bob", "b" * 40, ", rate: 2/hour") + line("carol", "c" * 40))
    return path


def test_key_of_the_file_opens_and_others_do_not(file: Path) -> None:
    keys = Keys(KeysConfig(file=str(file)))
    found = keys.find(SECRET)
    assert found is not None
    assert (found.name, found.rate) == ("alice", None)
    for wrong in ("", SECRET[:-1], SECRET + " ", SECRET.upper(), hashlib.sha256(SECRET.encode()).hexdigest(), "\udcff"):
        assert keys.find(wrong) is None


def test_keys_of_the_environment_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEYS", f"{SECRET}, other")
    keys = Keys(KeysConfig(env="OUR_KEYS", rate="5/second"))
    assert [key is not None for key in map(keys.find, (SECRET, "other", ""))] == [True, True, False]


def test_new_key_is_let_in_by_the_line_printed_with_it(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, ["dave"]).output
    key, entry = re.findall(r":  +(\S.*)", printed)
    (tmp_path / "keys.yaml").write_text(entry)
    found = Keys(KeysConfig(file=str(tmp_path / "keys.yaml"))).find(key)
    assert found is not None
    assert found.name == "dave"
    assert len(key) > 40
    assert key not in entry


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("", "no API keys configured"),
        ("alice: {sha256: short}", "alice.sha256"),
        (line("alice", SECRET, ", color: red"), "alice.color"),
        (line("alice", SECRET, ", rate: often"), "alice.rate"),
        ("alice: [" + SECRET, "not valid YAML"),
    ],
)
def test_bad_key_file_is_named_and_not_quoted(text: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        Keys(KeysConfig(file=str(path)))
    assert SECRET not in str(caught.value)


def test_bad_rate_is_refused_in_the_configuration() -> None:
    with pytest.raises(ValidationError, match="rate"):
        KeysConfig(file="keys.yaml", rate="often")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (f"Bearer {SECRET}", SECRET),
        (f"bearer  {SECRET} ", SECRET),
        ("Basic " + base64.b64encode(f"anyone:{SECRET}".encode()).decode(), SECRET),
        ("Basic %%%", ""),
        ("Basic " + base64.b64encode(b"\xff").decode(), ""),
        ("Basic \xe9", ""),
        ("Basic", ""),
        ("Basic a", ""),
        ("Bearer \xe9", "\xe9"),
        ("Digest abc", ""),
        ("", ""),
    ],
)
def test_key_is_read_from_what_clients_send(header: str, token: str) -> None:
    assert token_of(header) == token


@asynccontextmanager
async def gated(
    config: KeysConfig, answer: Callable[[Request], object], calls: list[tuple[str, int]]
) -> AsyncIterator[httpx.AsyncClient]:
    routes = [Route("/work", answer), Route("/healthz", answer)]
    app = KeyGate(Starlette(routes=routes), Keys(config), ["/healthz"], lambda *call: calls.append(call))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
        yield client


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def test_rate_is_each_keys_own_and_says_when_to_come_back(file: Path) -> None:
    calls: list[tuple[str, int]] = []
    async with gated(KeysConfig(file=str(file), rate="3/hour"), hello, calls) as client:
        for key, allowed in ((SECRET, 3), ("b" * 40, 2)):
            replies = [await client.get("/work", headers=bearer(key)) for _ in range(allowed + 1)]
            assert [reply.status_code for reply in replies] == [200] * allowed + [429]
            assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"
            assert 0 < int(replies[-1].headers["retry-after"]) <= 3600
        assert (await client.get("/work", headers=bearer("c" * 40))).status_code == 200
        assert (await client.get("/work")).status_code == 401
    assert Counter(calls) == {
        ("alice", 200): 3, ("alice", 429): 1, ("bob", 200): 2, ("bob", 429): 1, ("carol", 200): 1, ("unknown", 401): 1
    }  # fmt: skip


@pytest.mark.parametrize("header", [b"Basic \xe9", b"Basic a", b"Bearer \xe9", b"Basic", b"\xff", b"Bearer \x00"])
async def test_malformed_credential_is_refused_like_a_wrong_one(header: bytes, file: Path) -> None:
    async with gated(KeysConfig(file=str(file)), hello, []) as client:
        refusal = await client.get("/work", headers=[(b"authorization", header)])
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_concurrency_counts_what_runs_at_once(file: Path) -> None:
    started, finish = asyncio.Semaphore(0), asyncio.Event()

    async def wait(request: Request) -> PlainTextResponse:
        started.release()
        await finish.wait()
        return PlainTextResponse("done")

    async with gated(KeysConfig(file=str(file), concurrency=2), wait, []) as client:
        running = [asyncio.create_task(client.get("/work", headers=bearer(SECRET))) for _ in range(2)]
        for _ in running:
            await started.acquire()
        assert (await client.get("/work", headers=bearer(SECRET))).status_code == 429
        finish.set()
        assert [reply.status_code for reply in await asyncio.gather(*running)] == [200, 200]
        assert (await client.get("/work", headers=bearer(SECRET))).status_code == 200


@pytest.mark.parametrize("token", [SECRET, "c" * 40, SECRET[:-1], "x"], ids=["first", "last", "near", "far"])
def test_every_key_is_compared_in_constant_time_wherever_one_matches(
    token: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the place of the matching key nor the length of a matching start changes the work."""
    compared: list[tuple[int, int]] = []
    compare_digest = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    keys = Keys(KeysConfig(file=str(file)))
    monkeypatch.setattr(hmac, "compare_digest", spy)
    keys.find(token)
    assert compared == [(32, 32)] * 3  # SHA-256 digests of the token and of each of the three keys


@pytest.mark.service
def test_no_route_but_health_and_page_answers_without_a_key(keyed_service: Service) -> None:
    routes = keyed_service.client.get("/openapi.json").json()["paths"]
    assert "/v1/img2img" in routes
    with httpx.Client(base_url=keyed_service.url) as stranger:
        for path in [*routes, "/openapi.json", "/docs", "/redoc", "/nowhere"]:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                status = stranger.request(method, path).status_code
                assert (status == 401) == (path not in ("/", "/healthz")), (method, path, status)
        assert stranger.get("/healthz").status_code == 200


@pytest.mark.service
def test_a_thousand_wrong_keys_tell_nothing_by_body(keyed_service: Service) -> None:
    with httpx.Client(base_url=keyed_service.url) as stranger:
        guesses = [SECRET[:-4] + f"{number:04}" for number in range(1000)]
        replies = [stranger.get("/v1/models", headers=bearer(guess)) for guess in guesses]
        nothing = stranger.get("/v1/models")
    refusals = {(reply.status_code, reply.content, reply.headers["www-authenticate"]) for reply in [*replies, nothing]}
    assert len(refusals) == 1
    assert nothing.json()["error"]["code"] == "invalid_api_key"
    assert keyed_service.post(png(smooth_image(1, 64, 48)), num_inference_steps="4").status_code == 200


@pytest.mark.service
def test_keys_are_never_in_logs(keyed_service: Service) -> None:
    basic = base64.b64encode(f"anyone:{SECRET}".encode()).decode()
    assert keyed_service.client.get("/v1/models", headers={"authorization": f"Basic {basic}"}).status_code == 200
    assert keyed_service.client.get("/nowhere").status_code == 404
    logs = [path for path in Path(os.environ["RAY_TMPDIR"]).rglob("*") if path.is_file() and "logs" in path.parts]
    assert any("/v1/models" in path.read_text(errors="replace") for path in logs)
    for path in logs:
        text = path.read_text(errors="replace")
        assert SECRET not in text, path
        assert basic not in text, path


def log_lines(deployment: str) -> list[dict[str, Any]]:
    """What the deployment's replicas logged, without the lines from before Serve's own log was set up."""
    files = Path(os.environ["RAY_TMPDIR"]).rglob(f"logs/serve/replica_img2img_{deployment}_*.log")
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.startswith("{")]


@pytest.mark.service
def test_lines_of_a_request_carry_its_id_in_router_and_model(keyed_service: Service) -> None:
    reply = keyed_service.post(png(smooth_image(1, 64, 48)), num_inference_steps="4", strength="0.5")
    request_id = reply.headers["x-request-id"]

    def lines_of(deployment: str) -> list[dict[str, Any]]:
        return [line for line in log_lines(deployment) if line.get("request_id") == request_id]

    assert eventually(lambda: any("POST /v1/img2img 200" in line["message"] for line in lines_of("router")))
    [done] = eventually(lambda: [line for line in lines_of(MODEL) if "image done" in line["message"]])
    assert f"image done: {request_id}-" in done["message"]  # the engine's id, in lines that its thread writes
    assert done["steps"] == 2
    assert done["denoise_s"] > 0
