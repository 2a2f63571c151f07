"""The real service for tests: Ray, Serve and the application on a free port of this machine, gone at the end."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx
import numpy as np
import psutil
import ray
from PIL import Image
from ray import serve
from ray.serve.schema import ServeDeploySchema

from benchmarks.ports import free_port
from deployments.engine.request import Pixels
from deployments.ray_private import deploy_apps

APP = "img2img"
T = TypeVar("T")
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Service:
    """A running application."""

    url: str
    client: httpx.Client
    app: dict[str, Any]  # its entry in a Serve configuration

    def post(self, image: bytes, *, accept: str = "*/*", name: str = "image.png", **fields: Any) -> httpx.Response:
        """POST /v1/img2img."""
        files = {"image": (name, image)}
        return self.client.post("/v1/img2img", data=fields, files=files, headers={"accept": accept})

    def events(self, image: bytes, **fields: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """POST /v1/img2img for its events, as they come."""
        headers = {"accept": "text/event-stream"}
        with self.client.stream("POST", "/v1/img2img", data=fields, files={"image": image}, headers=headers) as reply:
            if reply.status_code != 200:
                reply.read()
                raise httpx.HTTPStatusError(reply.text, request=reply.request, response=reply)
            assert reply.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in reply.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    def models(self) -> dict[str, dict[str, Any]]:
        """GET /v1/models, by id."""
        return {model["id"]: model for model in self.client.get("/v1/models").json()["data"]}

    def stats(self, model: str) -> dict[str, int]:
        """The engine's counters of the model's one replica."""
        handle = serve.get_deployment_handle(model, APP)
        if not handle.is_initialized:  # behind HAProxy, a handle would work in coroutines only
            handle._init(_run_router_in_separate_loop=True)
        counters: dict[str, int] = handle.stats.remote().result(timeout_s=30)
        return counters


@contextmanager
def serving(
    models: dict[str, dict[str, Any]],
    *,
    deployments: dict[str, dict[str, Any]] | None = None,
    wait_for: int | None = None,
    num_gpus: int = 0,
    headers: dict[str, str] | None = None,
    logging_config: dict[str, Any] | None = None,
    ray_options: dict[str, Any] | None = None,
    **app_args: Any,
) -> Iterator[Service]:
    """The application with these models (AppConfig's `models`), Serve options by deployment name, Ray's own."""
    app = {
        "name": APP,
        "import_path": "deployments.app:build_app",
        "route_prefix": "/",
        "args": {"models": {name: {"compile": False, **model} for name, model in models.items()}, **app_args},
        "logging_config": logging_config,
        "deployments": [{"name": name, **options} for name, options in (deployments or {}).items()],
    }
    own = num_gpus or ray_options
    with _own_cluster(num_gpus, ray_options) if own else nullcontext(shared_cluster("service", _own_cluster)) as port:
        if app != _deployed:  # else it is as the module before has left it
            if _deployed is not None:
                serve.delete(APP)
            deploy(app)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, headers=headers) as client:
            service = Service(f"http://127.0.0.1:{port}", client, app)
            wanted = len(models) if wait_for is None else wait_for
            # Each question costs the cores that the models start on.
            eventually(lambda: sum(model["ready"] for model in service.models().values()) == wanted, every_s=0.2)
            yield service


_shared = ExitStack()  # what ends the cluster that modules share
_shared_kind = ""
_shared_value: Any = None
_deployed: dict[str, Any] | None = None  # the application that runs


def shared_cluster(kind: str, start: Callable[[], AbstractContextManager[T]]) -> T:
    """What `start` gave when a cluster of this kind was asked for first, which the next module finds again."""
    global _shared_kind, _shared_value
    if kind != _shared_kind:
        stop_shared_cluster()
        _shared_value = _shared.enter_context(start())
        _shared_kind = kind
    value: T = _shared_value
    return value


def stop_shared_cluster() -> None:
    """For modules that start Ray themselves, and those that need none, since it computes even when idle."""
    global _shared_kind
    _shared_kind = ""
    _shared.close()


@contextmanager
def plain_cluster() -> Iterator[None]:
    """A Ray for those who start Serve themselves."""
    stop_shared_cluster()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def _own_cluster(num_gpus: int = 0, ray_options: dict[str, Any] | None = None) -> Iterator[int]:
    """The port of a Serve, with a Ray, that nobody else uses."""
    global _deployed
    stop_shared_cluster()
    port = free_port()
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=4, num_gpus=num_gpus, **quiet, **(ray_options or {}))
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
    finally:
        _deployed = None
        serve.shutdown()
        ray.shutdown()


def deploy(app: dict[str, Any]) -> None:
    """What `serve deploy` does with an application of a configuration file: replicas change without a restart."""
    global _deployed
    _deployed = deepcopy(app)
    deploy_apps(ServeDeploySchema(applications=[app]))


def eventually(condition: Callable[[], Any], patience_s: float = PATIENCE_S, every_s: float = 0.02) -> Any:
    """The first true value of `condition`, asked again and again; its exceptions count as false until time is up."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if value := condition():
                return value
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"not true within {patience_s} s"
        time.sleep(every_s)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def replica_pids(deployment: str) -> list[int]:
    """Process ids of the deployment's replicas in this test's Ray, by the title that Serve gives them."""
    title = f"ray::ServeReplica:{APP}:{deployment}"
    # While it works on a call, the method's name follows after a dot.
    return sorted(
        process.pid
        for process in psutil.Process().children(recursive=True)
        if f"{_title(process)}.".startswith(f"{title}.")
    )


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it just ended
        return (process.cmdline() or [""])[0]
    return ""


def resident_mib(pid: int) -> float:
    """Memory of a process that is its own."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
