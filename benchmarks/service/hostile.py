"""What honest clients notice of hostile ones: their latency alone, then beside hostile requests.

    python -m benchmarks.service.hostile --count 500

Exit codes: 0 no honest request failed, no process was lost and nothing was answered 5xx; 1 otherwise.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import psutil  # type: ignore[import-untyped]
import typer
from PIL import Image

from benchmarks.backends.serving import APP, start_service, stop_ray
from benchmarks.service.hostile_requests import HostileRequest, hostile_requests
from benchmarks.spread import tail
from deployments.config import REPO_ROOT

MODEL = "tiny-sd15"
HONEST = 8  # clients
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"
SIDE = 256
FIELDS = {"strength": "0.6", "num_inference_steps": "10", "output_format": "jpeg"}
PATIENCE_S = 120.0
MIB = 2**20


@dataclass
class Seen:
    """What the clients were answered."""

    honest_s: list[float] = field(default_factory=list)
    honest_failures: list[str] = field(default_factory=list)
    hostile: Counter[str] = field(default_factory=Counter)  # by status, or "left"
    server_errors: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""


def main(
    count: Annotated[int, typer.Option(min=1, help="Number of hostile requests.")] = 500,
    rate: Annotated[float, typer.Option(min=0.1, help="Hostile requests a second.")] = 4.0,
) -> None:
    """Measure the honest clients alone for as long as the hostile requests will take, then beside them."""
    raise typer.Exit(asyncio.run(_measure(count, rate)))


async def _measure(count: int, rate: float) -> int:
    address = await start_service(application())
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S, limits=limits) as client:
        alone, beside, warm_up = Seen(), Seen(), Seen()
        each_kind = len(hostile_requests())  # its first request loads libraries, which is no growth
        await _until(client, warm_up, lambda: _attack(client, warm_up, each_kind, rate))
        before = _processes()
        await _until(client, alone, lambda: asyncio.sleep(count / rate))
        await _until(client, beside, lambda: _attack(client, beside, count, rate))
    lost, growth = _compare(before, _processes())
    stop_ray()
    _report(alone, beside, growth)
    print(*lost, *beside.server_errors, *alone.honest_failures, *beside.honest_failures, sep="\n")
    return int(bool(lost or beside.server_errors or beside.honest_failures or alone.honest_failures))


def application() -> dict[str, Any]:
    """The application's entry in a Serve configuration."""
    model = {"checkpoint": str(Path("data") / "models" / MODEL), "reproducible": True}
    return {"name": APP, "import_path": "deployments.app:build_app", "args": {"models": {MODEL: model}}}


async def _until(client: httpx.AsyncClient, seen: Seen, work: Callable[[], Awaitable[None]]) -> None:
    """HONEST clients send one request after another until the work is done."""
    photo = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize((SIDE, SIDE)).save(photo, "jpeg")
    done = asyncio.Event()

    async def honest(first_seed: int) -> None:
        seed = first_seed
        while not done.is_set():
            started = time.perf_counter()
            data = FIELDS | {"seed": str(seed)}
            reply = await client.post("/v1/img2img", data=data, files={"image": ("a.jpg", photo.getvalue())})
            seen.honest_s.append(time.perf_counter() - started)
            if reply.status_code != 200:
                seen.honest_failures.append(f"honest: {reply.status_code} {reply.text[:200]}")
            seed += HONEST

    clients = [asyncio.create_task(honest(seed)) for seed in range(HONEST)]
    await work()
    done.set()
    await asyncio.gather(*clients)


async def _attack(client: httpx.AsyncClient, seen: Seen, count: int, rate: float) -> None:
    async with asyncio.TaskGroup() as group:
        for name, request in islice(cycle(hostile_requests().items()), count):
            group.create_task(_send(client, seen, name, request))
            await asyncio.sleep(1 / rate)


async def _send(client: httpx.AsyncClient, seen: Seen, name: str, request: HostileRequest) -> None:
    started = time.perf_counter()
    sent = client.request(request.method, request.path, headers=request.headers, **request.arguments)
    status = "left"
    with suppress(TimeoutError):
        reply = await asyncio.wait_for(sent, request.leave_after_s)
        status = str(reply.status_code)
        if reply.status_code >= 500:
            seen.server_errors.append(f"{name}: {status} {reply.text[:200]}")
    seen.hostile[status] += 1
    if (seconds := time.perf_counter() - started) > seen.slowest_s:
        seen.slowest_s, seen.slowest = seconds, name


def _processes() -> dict[int, tuple[str, float]]:
    """The title and the memory (MiB, resident) of each process of the service's replicas, by its id."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, IndexError):
            title = process.cmdline()[0]
            if title.startswith("ray::ServeReplica"):
                found[process.pid] = (title.split(".")[0], process.memory_info().rss / MIB)
    return found


def _compare(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]
) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """The processes that are gone, and the memory of the others before and after."""
    lost = [f"{title} died" for pid, (title, _) in before.items() if pid not in after]
    return lost, {title: (size, after[pid][1]) for pid, (title, size) in before.items() if pid in after}


def _report(alone: Seen, beside: Seen, growth: dict[str, tuple[float, float]]) -> None:
    ratio = tail(beside.honest_s) / tail(alone.honest_s)
    print(f"honest alone: {len(alone.honest_s)} requests, p99 {tail(alone.honest_s):.2f} s")
    print(f"honest beside: {len(beside.honest_s)} requests, p99 {tail(beside.honest_s):.2f} s, {ratio:.2f} times")
    print(f"hostile: {dict(beside.hostile)}; the slowest took {beside.slowest_s:.2f} s ({beside.slowest})")
    for title, (first, last) in growth.items():
        print(f"{title}: {first:.0f} MiB before, {last:.0f} MiB after")


if __name__ == "__main__":
    typer.run(main)
