"""What front ends of the web UI read before they show anything: all of it is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.in_process import Api

LISTS = """upscalers latent-upscale-modes hypernetworks face-restorers realesrgan-models prompt-styles embeddings sd-vae
sd-modules memory scripts script-info extensions loras cmd-flags"""


@pytest.fixture(scope="module")
def served() -> Api:
    return Api()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/internal/ping", {}),
        ("/internal/quicksettings-hint", []),
        ("/internal/pending-tasks", {"size": 0, "tasks": []}),
    ],
)
async def test_probe_of_a_front_end_finds_a_server(path: str, answer: Any, served: Api) -> None:
    reply = await served.client.get(path)
    assert (reply.status_code, reply.json()) == (200, answer)


@pytest.mark.parametrize("name", LISTS.split())
async def test_list_is_there(name: str, served: Api) -> None:
    reply = await served.client.get(f"/sdapi/v1/{name}")
    assert (reply.status_code, type(reply.json()) in (list, dict)) == (200, True)


async def test_models_samplers_and_settings_name_what_can_be_used(served: Api) -> None:
    models = (await served.client.get("/sdapi/v1/sd-models")).json()
    assert (await served.client.get("/sdapi/v1/options")).json()["sd_model_checkpoint"] == models[0]["title"]
    assert (await served.client.get("/sdapi/v1/samplers")).json()[0]["name"]
    assert (await served.client.get("/sdapi/v1/schedulers")).json()[0]["label"]
