"""The service under load: leaving, queueing, refusing, dying replicas, shutdown. Slow requests have many steps."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from ray import serve

from tests.support.reference import smooth_image
from tests.support.service import APP, Service, eventually, png, replica_pids, resident_mib, serving

pytestmark = pytest.mark.service
SMALL = png(smooth_image(1, 192, 192))
LARGE = png(smooth_image(2, 256, 256))
SHORT = {"strength": "0.5", "num_inference_steps": "8", "seed": "1"}
MIDDLE = {"strength": "1", "num_inference_steps": "50", "seed": "3"}
LONG = {"strength": "1", "num_inference_steps": "150", "seed": "2"}
RETRY_S = 1
UPSCALE_DELAY_S, LOOK_BACK_S, STEPS_PER_REPLICA = 0.5, 1.0, 40


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path]) -> Iterator[Service]:
    sd15: dict[str, Any] = {"checkpoint": str(checkpoints("sd15")), "reproducible": True}
    few = {
        "max_ongoing_requests": 4,
        "max_queued_requests": 4,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_S},
    }
    elastic = {
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": 2,
            "upscale_delay_s": UPSCALE_DELAY_S,
            "metrics_interval_s": 0.2,
            "look_back_period_s": LOOK_BACK_S,
            "policy": {
                "policy_function": "deployments.autoscaling:QueuedSteps",
                "policy_kwargs": {"steps_per_replica": STEPS_PER_REPLICA},
            },
        }
    }
    models = dict.fromkeys(("sd15", "few", "elastic"), sd15)
    with serving(models, deployments={"few": few, "elastic": elastic}) as service:
        yield service


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def start(pool: ThreadPoolExecutor, service: Service, image: bytes, **fields: str) -> Future[httpx.Response]:
    return pool.submit(lambda: service.post(image, **fields))


def test_short_request_returns_before_a_long_one_that_came_first(service: Service, pool: ThreadPoolExecutor) -> None:
    long = start(pool, service, LARGE, **MIDDLE)
    eventually(lambda: service.stats("sd15")["running"])
    short = service.post(LARGE, **SHORT)
    assert short.status_code == 200
    assert short.headers["x-steps"] == "4"
    assert not long.done()
    assert long.result().headers["x-steps"] == "50"


def test_closing_the_connection_stops_the_rows_of_that_request_only(service: Service, pool: ThreadPoolExecutor) -> None:
    alone = service.post(LARGE, **SHORT, guidance_scale="5").content
    before = service.stats("sd15")

    async def leave() -> int:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            leaver = asyncio.create_task(client.post("/v1/img2img", data=LONG, files={"image": LARGE}))
            await asyncio.to_thread(eventually, lambda: service.stats("sd15")["unet_rows"] > before["unet_rows"])
            rows = (await asyncio.to_thread(service.stats, "sd15"))["unet_rows"]
            leaver.cancel()
        return rows

    rows_at_close = asyncio.run(leave())
    eventually(lambda: service.stats("sd15")["aborted"] == before["aborted"] + 1)
    stats = service.stats("sd15")
    # Two rows were perhaps running, and perhaps one step's two rows began while the news was on its way.
    assert stats["unet_rows"] - rows_at_close <= 4
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert service.post(LARGE, **SHORT, guidance_scale="5").content == alone
    after = service.stats("sd15")
    assert after["unet_rows"] - stats["unet_rows"] == 2 * 4  # the leaver's rows are gone for good
    assert after["failed"] == before["failed"]


def test_neighbours_of_a_leaver_get_their_image(service: Service) -> None:
    expected = service.post(LARGE, **SHORT).content

    async def scenario() -> bytes:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            leaver = asyncio.create_task(client.post("/v1/img2img", data=LONG, files={"image": LARGE}))
            await asyncio.to_thread(eventually, lambda: service.stats("sd15")["running"] == 1)
            stayer = asyncio.create_task(client.post("/v1/img2img", data=SHORT, files={"image": LARGE}))
            await asyncio.to_thread(eventually, lambda: service.stats("sd15")["running"] == 2)
            leaver.cancel()
            return (await stayer).content

    assert asyncio.run(scenario()) == expected


def test_overload_is_refused_with_retry_after_and_leaves_no_trace(service: Service) -> None:
    expected = service.post(SMALL, model="few", **SHORT).content
    started = time.monotonic()
    for _ in range(10):
        service.post(SMALL, model="few", **SHORT)
    capacity = 10 / (time.monotonic() - started)  # requests a second, one after the other: not more than the true one

    before = service.stats("few")
    seconds = float(os.environ.get("OVERLOAD_S", "6"))
    memory: list[float] = []
    answers = asyncio.run(_flood(service, rate=10 * capacity, seconds=seconds, memory=memory))

    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(served) + len(refused) == len(answers)
    assert len(refused) > len(served) > 0
    assert all(answer.content == expected for answer in served)
    assert {answer.headers["retry-after"] for answer in refused} == {str(RETRY_S)}
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert max(memory) - memory[len(memory) // 4] < 0.1 * memory[len(memory) // 4] + 20

    after = eventually(lambda: (stats := service.stats("few"))["running"] == stats["waiting"] == 0 and stats)
    counted = {name: after[name] - before[name] for name in ("finished", "failed", "aborted", "unet_rows")}
    # No refused request reached the engine: 4 steps of 2 rows for each that was served, and no row more.
    assert counted == {"finished": len(served), "failed": 0, "aborted": 0, "unet_rows": 8 * len(served)}
    started = time.monotonic()
    assert service.post(SMALL, model="few", **SHORT).content == expected
    assert time.monotonic() - started < 5


async def _flood(service: Service, rate: float, seconds: float, memory: list[float]) -> list[httpx.Response]:
    """Send `rate` requests a second whatever comes back, and watch the memory of all replicas (MiB)."""
    pids = [pid for name in ("few", "router") for pid in replica_pids(name)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:
        body = {"data": {"model": "few", **SHORT}, "files": {"image": SMALL}}
        tasks = []
        started = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(client.post("/v1/img2img", **body)))
            if number % max(1, int(rate / 2)) == 0:
                memory.append(sum(resident_mib(pid) for pid in pids))
        return await asyncio.gather(*tasks)


def test_as_many_steps_as_a_replica_may_have_start_no_second_one(service: Service) -> None:
    """Without a pause, for longer than the autoscaler takes to decide, and it decides ten times a second."""
    started, most = time.monotonic(), 0
    while time.monotonic() - started < 2 * (LOOK_BACK_S + UPSCALE_DELAY_S):
        assert service.post(LARGE, model="elastic", strength="1", num_inference_steps=str(STEPS_PER_REPLICA)).is_success
        most = max(most, len(replica_pids("elastic")))
    assert most == 1


def test_more_steps_than_a_replica_may_have_start_a_second_one(service: Service, pool: ThreadPoolExecutor) -> None:
    two = [start(pool, service, LARGE, model="elastic", **MIDDLE) for _ in range(2)]
    eventually(lambda: len(replica_pids("elastic")) == 2)
    assert all(reply.result().status_code == 200 for reply in two)


def test_killed_replica_costs_its_requests_a_503_and_is_replaced(service: Service, pool: ThreadPoolExecutor) -> None:
    expected = service.post(SMALL, **SHORT).content
    long = start(pool, service, LARGE, **LONG)
    eventually(lambda: service.stats("sd15")["running"])
    [pid] = replica_pids("sd15")
    os.kill(pid, signal.SIGKILL)
    reply = long.result(timeout=60)
    assert reply.status_code == 503, reply.text
    assert reply.headers["retry-after"]
    assert reply.json()["error"]["code"] in ("replica_died", "model_not_ready")
    eventually(lambda: service.post(SMALL, **SHORT).content == expected)
    assert pid not in replica_pids("sd15")


def test_shutdown_lets_running_requests_finish(service: Service, pool: ThreadPoolExecutor) -> None:
    running = start(pool, service, LARGE, **{**LONG, "num_inference_steps": "40"})
    eventually(lambda: service.stats("sd15")["running"])
    serve.delete(APP)
    reply = running.result(timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-steps"] == "40"
