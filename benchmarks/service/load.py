"""One start of the service with idle models, under load; overhead.py starts it: `python -m benchmarks.service.load`."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections import defaultdict
from contextlib import suppress
from io import BytesIO
from typing import Any

import httpx2 as httpx
import psutil  # type: ignore[import-untyped]
from PIL import Image

from benchmarks.backends.serving import APP, start_service, stop_ray
from benchmarks.spread import tail
from deployments.config import REPO_ROOT

SIDE, ALONE, TOGETHER, CLIENTS = 512, 200, 2000, 16
ROLES = ("router", "idle", "haproxy", "ProxyActor", "ServeController")
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"


async def measure() -> dict[str, float]:
    """Latency (ms) of one client; then latency, rate and CPU time per request of CLIENTS clients at once."""
    address = await start_service(application())
    request = encoded_request(address)
    host, port = httpx.URL(address).host, httpx.URL(address).port
    assert port is not None
    await client(host, port, request, ALONE)  # warm
    alone = await client(host, port, request, ALONE)
    before, started = processor_seconds(), time.perf_counter()
    groups = await asyncio.gather(*(client(host, port, request, TOGETHER // CLIENTS) for _ in range(CLIENTS)))
    seconds = time.perf_counter() - started
    together = [latency for group in groups for latency in group]
    used = {name: after - before.get(name, 0.0) for name, after in processor_seconds().items()}
    stop_ray()
    return {
        "alone_median_ms": 1000 * statistics.median(alone),
        "alone_p99_ms": 1000 * tail(alone),
        "together_median_ms": 1000 * statistics.median(together),
        "requests_per_s": len(together) / seconds,
        "cpu_ms": 1000 * sum(used.values()) / len(together),
        **{f"cpu_ms_of_{name}": 1000 * value / len(together) for name, value in used.items()},
    }


def processor_seconds() -> dict[str, float]:
    """CPU seconds so far of the service's processes by role, and of this process as the client."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[_role(process)] += times.user + times.system
    return seconds


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return "client" if process.pid == os.getpid() else next((name for name in ROLES if name in command), "Ray")


def application() -> dict[str, Any]:
    """The application's entry in a Serve configuration."""
    return {
        "name": APP,
        "import_path": "benchmarks.service.idle:build_app",
        "args": {"models": {"idle": {"checkpoint": "none"}}},
        "deployments": [{"name": "router", "num_replicas": len(os.sched_getaffinity(0))}],
    }


def encoded_request(address: str) -> bytes:
    """A whole HTTP request with a JPEG, ready to send, so that the client takes no time that the server needs."""
    buffer = BytesIO()
    Image.open(PHOTO).convert("RGB").resize((SIDE, SIDE)).save(buffer, "jpeg", quality=90)
    fields = {"output_format": "jpeg", "seed": "1"}
    request = httpx.Request("POST", f"{address}/v1/img2img", data=fields, files={"image": ("a.jpg", buffer.getvalue())})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /v1/img2img HTTP/1.1\r\n{head}\r\n".encode() + request.read()


async def client(host: str, port: int, request: bytes, count: int) -> list[float]:
    """Send the request `count` times over one connection; the seconds of each."""
    reader, writer = await asyncio.open_connection(host, port)
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        image = await reader.readexactly(length)
        assert image.startswith(b"\xff\xd8")
        seconds.append(time.perf_counter() - started)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return seconds


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
