"""Behind HAProxy: a router that dies, and changes of the number of routers, while requests come in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.reference import smooth_image
from tests.support.service import Service, deploy, eventually, png, replica_pids, serving

pytestmark = [
    pytest.mark.service,
    pytest.mark.behind_haproxy,
    pytest.mark.skipif(
        os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1", reason="runs in `make test-haproxy`, which puts it in front"
    ),
]
IMAGE, LARGE = png(smooth_image(2, 64, 64)), png(smooth_image(2, 256, 256))
SHORT = {"strength": "0.5", "num_inference_steps": "8", "seed": "1"}
LONG = {"strength": "1", "num_inference_steps": "150", "seed": "2"}
CLIENTS = 8


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path]) -> Iterator[Service]:
    models = {"sd15": {"checkpoint": str(checkpoints("sd15")), "reproducible": True}}
    with serving(models, deployments={"router": {"num_replicas": 2}}) as service:
        yield service


@dataclass
class Answers:
    """What clients got that send one request after another."""

    good: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def clients(service: Service, count: int) -> Iterator[Answers]:
    """Clients that send until the block ends."""
    answers, done = Answers(), threading.Event()

    def send() -> None:
        while not done.is_set():
            try:
                reply = service.post(IMAGE, **SHORT)
            except httpx.TransportError as error:
                answers.failed.append(repr(error))
            else:
                answers.good += reply.status_code == 200
                if reply.status_code != 200:
                    answers.failed.append(f"{reply.status_code} {reply.text}")

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(send) for _ in range(count)]
        try:
            yield answers
        finally:
            done.set()
        for each in running:
            each.result()


def all_run(count: int) -> bool:
    return len(replica_pids("router")) == count


def test_killed_router_costs_only_the_requests_that_were_in_it(service: Service) -> None:
    victim, _ = replica_pids("router")
    with clients(service, CLIENTS) as answers:
        eventually(lambda: answers.good >= 2 * CLIENTS)
        os.kill(victim, signal.SIGKILL)
        good = answers.good
        eventually(lambda: answers.good >= good + 2 * CLIENTS)
        eventually(lambda: all_run(2) and victim not in replica_pids("router"))
        good = answers.good
        eventually(lambda: answers.good >= good + 2 * CLIENTS)
    assert len(answers.failed) <= CLIENTS, answers.failed


def test_changing_the_number_of_routers_costs_no_request(service: Service) -> None:
    def routers(count: int) -> None:
        others = [each for each in service.app["deployments"] if each["name"] != "router"]
        deploy(service.app | {"deployments": [*others, {"name": "router", "num_replicas": count}]})

    with ThreadPoolExecutor(1) as pool, clients(service, 2) as answers:
        long = pool.submit(lambda: service.post(LARGE, **LONG))
        eventually(lambda: answers.good > 2)
        for count in (1, 3, 2):
            routers(count)
            eventually(lambda count=count: len(replica_pids("router")) >= count)
        reply = long.result()
        assert reply.status_code == 200, reply.text
    assert not answers.failed
