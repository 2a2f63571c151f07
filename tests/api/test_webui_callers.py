"""The web UI's tasks and settings belong to the caller's API key, and a task's id to one running request."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_keys import bearer, line
from tests.support.images import file_of, gradient
from tests.support.in_process import Api, api

ALICE, BOB = bearer("a" * 40), bearer("b" * 40)
BODY = {"init_images": [base64.b64encode(file_of(gradient(), "PNG")).decode()], "steps": 4, "width": 64, "height": 48}
MODELS = {"one": {"checkpoint": "none"}, "two": {"checkpoint": "none"}}


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "keys.yaml"
    path.write_text(line("alice", "a" * 40) + line("bob", "b" * 40))
    async with api(models=MODELS, keys={"file": str(path)}) as served:
        yield served


@pytest.fixture
async def open_to_all() -> AsyncIterator[Api]:
    async with api(models=MODELS) as served:
        yield served


async def get(served: Api, path: str, headers: dict[str, str]) -> Any:
    return (await served.client.get(path, headers=headers)).json()


async def start(served: Api, headers: dict[str, str], **fields: Any) -> asyncio.Task[Any]:
    """A request that runs until its model's `proceed` is set."""
    served.models["one"].proceed.clear()
    request = served.client.post("/sdapi/v1/img2img", json=BODY | fields, headers=headers)
    task = asyncio.create_task(request)
    async with asyncio.timeout(10):
        while not (await get(served, "/sdapi/v1/progress", headers))["state"]["job_count"]:
            await asyncio.sleep(0.01)
    return task


async def test_a_key_sees_and_stops_its_own_tasks_only(keyed: Api) -> None:
    running = await start(keyed, ALICE, force_task_id="mine")
    assert (await get(keyed, "/sdapi/v1/progress", ALICE))["current_task"] == "mine"
    assert (await get(keyed, "/sdapi/v1/progress", BOB))["state"]["job_count"] == 0
    ask = {"id_task": "mine", "live_preview": True}
    replies = [await keyed.client.post("/internal/progress", json=ask, headers=who) for who in (ALICE, BOB)]
    assert [reply.json()["active"] or reply.json()["queued"] for reply in replies] == [True, False]
    await keyed.client.post("/sdapi/v1/interrupt", headers=BOB)
    assert not (await get(keyed, "/sdapi/v1/progress", ALICE))["state"]["interrupted"]
    await keyed.client.post("/sdapi/v1/interrupt", headers=ALICE)
    assert (await running).json()["images"] == []


async def test_a_key_changes_its_own_model_only(keyed: Api) -> None:
    change = {"sd_model_checkpoint": "two"}
    assert (await keyed.client.post("/sdapi/v1/options", json=change, headers=ALICE)).status_code == 200
    picked = [(await get(keyed, "/sdapi/v1/options", who))["sd_model_checkpoint"] for who in (ALICE, BOB)]
    assert picked == ["two.safetensors", "one.safetensors"]


async def test_without_keys_everybody_shares_tasks_and_model(open_to_all: Api) -> None:
    await open_to_all.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "one"})
    running = await start(open_to_all, {}, force_task_id="ours")
    assert (await get(open_to_all, "/sdapi/v1/progress", ALICE))["current_task"] == "ours"
    await open_to_all.client.post("/sdapi/v1/interrupt", headers=BOB)
    assert (await running).json()["images"] == []


async def test_a_task_id_in_use_is_refused_and_free_afterwards(open_to_all: Api) -> None:
    running = await start(open_to_all, {}, force_task_id="mine")
    again = await open_to_all.client.post("/sdapi/v1/img2img", json=BODY | {"force_task_id": "mine"})
    assert (again.status_code, again.json()["error"]["param"]) == (400, "force_task_id")
    assert (await get(open_to_all, "/sdapi/v1/progress", {}))["state"]["job_count"] == 1
    open_to_all.models["one"].proceed.set()
    assert (await running).status_code == 200
    again = await open_to_all.client.post("/sdapi/v1/img2img", json=BODY | {"force_task_id": "mine"})
    assert again.status_code == 200


async def test_two_keys_may_use_one_task_id(keyed: Api) -> None:
    running = await start(keyed, ALICE, force_task_id="same")
    keyed.models["one"].proceed.set()
    other = await keyed.client.post("/sdapi/v1/img2img", json=BODY | {"force_task_id": "same"}, headers=BOB)
    assert [other.status_code, (await running).status_code] == [200, 200]


async def test_a_task_id_has_at_most_200_characters(open_to_all: Api) -> None:
    for length, status in ((200, 200), (201, 400)):
        body = BODY | {"force_task_id": "x" * length}
        assert (await open_to_all.client.post("/sdapi/v1/img2img", json=body)).status_code == status
