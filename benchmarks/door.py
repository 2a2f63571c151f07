"""What the service adds to the models' own time: latency and requests per second with models that do nothing.

python -m benchmarks.door > benchmarks/results/door.json
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
from PIL import Image

from benchmarks.machine import describe_machine, git_commit
from benchmarks.processes import BEHIND_HAPROXY
from benchmarks.serve_ways import APP, start_service, stop_ray
from deployments.config import REPO_ROOT

SIDE, ROUNDS, ALONE, TOGETHER, CLIENTS = 512, 3, 200, 2000, 16
ROLES = ("router", "idle", "haproxy", "ProxyActor", "ServeController")
MANNERS: dict[str, dict[str, str]] = {
    "Serve's proxy": {},
    "HAProxy": BEHIND_HAPROXY,
}
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"


def main() -> None:
    """Measure each manner in turn, `ROUNDS` times, each in a process of its own, and print medians as JSON."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in MANNERS}
    for _ in range(ROUNDS):
        for name, environment in MANNERS.items():
            command = [sys.executable, "-m", "benchmarks.door", "measure"]
            done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
            figures[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]}
        for name, rounds in figures.items()
    }
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    print(json.dumps({**facts, "machine": describe_machine().model_dump(), "jpeg_of_512_px": medians}, indent=1))


async def measure() -> dict[str, float]:
    """Of one start of the service: latency of one request after the other, and the rate of `CLIENTS` clients."""
    address = await start_service(application())
    request = encoded_request(address)
    host, port = httpx.URL(address).host, httpx.URL(address).port
    assert port is not None
    await client(host, port, request, [], ALONE)  # warm
    alone: list[float] = []
    await client(host, port, request, alone, ALONE)
    together: list[float] = []
    before = processor_seconds()
    started = time.perf_counter()
    await asyncio.gather(*(client(host, port, request, together, TOGETHER // CLIENTS) for _ in range(CLIENTS)))
    rate = len(together) / (time.perf_counter() - started)
    used = {name: seconds - before.get(name, 0.0) for name, seconds in processor_seconds().items()}
    stop_ray()
    return {
        "alone_p50_ms": 1000 * statistics.median(alone),
        "alone_p99_ms": 1000 * statistics.quantiles(alone, n=100)[98],
        "together_p50_ms": 1000 * statistics.median(together),
        "requests_per_s": rate,
        **{f"cpu_ms_of_{name}": 1000 * seconds / len(together) for name, seconds in used.items()},
        "cpu_ms": 1000 * sum(used.values()) / len(together),
    }


def processor_seconds() -> dict[str, float]:
    """What each of the service's processes, and this one as the client, has used of the processors so far."""
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
        "import_path": "benchmarks.idle:build_app",
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


async def client(host: str, port: int, request: bytes, seconds: list[float], count: int) -> None:
    """Send the request again and again over one connection; the seconds that each took go into the list."""
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(count):
        started = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        picture = await reader.readexactly(length)
        assert picture.startswith(b"\xff\xd8")
        seconds.append(time.perf_counter() - started)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure()))) if sys.argv[1:] else main()
