"""The ways that run on Ray Serve, each on a Ray cluster of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import ray
from PIL import Image
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from benchmarks.records import Job
from benchmarks.serve_batch import BatchedPipeline
from deployments.config import REPO_ROOT
from deployments.engine.request import Img2ImgRequest, Pixels

APP, MODEL = "img2img", "model"
SETTLED = 10  # answers in a row, after which the door is taken to be open


class ServeBatch:
    """`BatchedPipeline`, called through its handle."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def open(self) -> None:
        options = self._job.options
        _start_ray()
        deployment: Any = BatchedPipeline
        deployment = deployment.options(ray_actor_options=_actor_options(self._job))
        self._handle: DeploymentHandle = serve.run(
            deployment.bind(self._job.checkpoint, options.device, options.batch_size), name=APP, route_prefix=None
        )
        self.dtype: str = await self._handle.dtype.remote()

    async def run(self, request: Img2ImgRequest) -> Pixels:
        picture: Pixels = await self._handle.img2img.remote(request)
        return picture

    async def close(self) -> None:
        stop_ray()


class Service:
    """The whole application on a free port, deployed from a Serve configuration as in production."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def open(self) -> None:
        url = await start_service(self._application())
        unlimited = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=None, limits=unlimited)
        model = await self._model()
        while model["compiling"]:  # it serves meanwhile, but that is not what is measured
            await asyncio.sleep(0.5)
            model = await self._model()
        self.dtype = model["dtype"]

    async def run(self, request: Img2ImgRequest) -> Pixels:
        buffer = BytesIO()
        Image.fromarray(request.pixels).save(buffer, "png", compress_level=1)
        fields = {
            "prompt": request.prompt,
            "strength": str(request.strength),
            "guidance_scale": str(request.guidance_scale),
            "num_inference_steps": str(request.num_inference_steps),
            "seed": str(request.seed),
            "max_side": str(max(request.pixels.shape)),
        }
        reply = await self._client.post("/v1/img2img", data=fields, files={"image": ("image.png", buffer.getvalue())})
        if reply.is_error:
            raise RuntimeError(f"the service answered {reply.status_code}: {reply.text[:500]}")
        assert int(reply.headers["x-steps"]) == request.num_denoise_steps, "the service ran another number of steps"
        return np.array(Image.open(BytesIO(reply.content)))

    async def close(self) -> None:
        await self._client.aclose()
        stop_ray()

    async def _model(self) -> dict[str, Any]:
        """What the service says of its only model."""
        models: dict[str, Any] = (await self._client.get("/v1/models")).raise_for_status().json()
        return dict(models["data"][0])

    def _application(self) -> dict[str, Any]:
        no_limit = {"max_queued_requests": -1}  # waiting is measured here, not refusing
        return {
            "name": APP,
            "import_path": "deployments.app:build_app",
            "args": {
                "models": {MODEL: self._job.model_args},
                "limits": {"max_side": max(2048, self._job.options.size), "deadline_s": 3600},
            },
            "deployments": [
                {"name": "router", **no_limit},
                {"name": MODEL, "ray_actor_options": _actor_options(self._job), **no_limit},
            ],
        }


async def start_service(application: dict[str, Any]) -> str:
    """Deploy an application named APP, on a Ray cluster of its own; its address, once it answers."""
    _start_ray()
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))
    await _until_running()
    address = f"http://127.0.0.1:{port}"
    await _until_open(address)
    return address


def _actor_options(job: Job) -> dict[str, float]:
    return {"num_cpus": 0.1, "num_gpus": float(job.options.device == "cuda")}


def _start_ray() -> None:
    """A cluster of our own even where another one runs, whose processes can import this repository."""
    paths = os.pathsep.join([str(REPO_ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )


def stop_ray() -> None:
    """Stop what runs and the cluster with it."""
    serve.shutdown()
    ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_running() -> None:
    while True:
        app = serve.status().applications[APP]
        if app.status == ApplicationStatus.RUNNING:
            return
        if app.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"the service did not start: {app.message}")
        await asyncio.sleep(0.1)


async def _until_open(address: str) -> None:
    """HAProxy opens, and is given its servers, a while after Serve says that the application runs."""
    answered = 0
    while answered < SETTLED:
        try:
            async with httpx.AsyncClient() as client:
                answered = answered + 1 if (await client.get(f"{address}/healthz")).is_success else 0
        except httpx.HTTPError:
            answered = 0
        await asyncio.sleep(0.3)
