"""Starts and stops a Ray cluster and an application on it, for a measurement alone."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx2 as httpx
import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from benchmarks.ports import free_port
from deployments.config import REPO_ROOT
from deployments.ray_private import deploy_apps

APP = "img2img"
SETTLED = 10  # answers in a row, after which the HTTP API is taken to be up
POLL_S = 0.3
BEHIND_HAPROXY = {  # as the Makefile's serve-fast
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middlewares",
}


def start_ray() -> None:
    """Start a cluster even where another one runs; its processes can import this repository."""
    paths = os.pathsep.join([str(REPO_ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )


def stop_ray() -> None:
    """Stop the applications and the cluster."""
    serve.shutdown()
    ray.shutdown()


async def start_service(application: dict[str, Any]) -> str:
    """Deploy an application named APP on a new cluster. Returns its address once it answers."""
    start_ray()
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy_apps(ServeDeploySchema(applications=[application]))
    await _until_running()
    address = f"http://127.0.0.1:{port}"
    await _until_answering(address)
    return address


async def _until_running() -> None:
    while True:
        app = serve.status().applications[APP]
        if app.status == ApplicationStatus.RUNNING:
            return
        if app.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"the service did not start: {app.message}")
        await asyncio.sleep(POLL_S)


async def _until_answering(address: str) -> None:
    """HAProxy listens, and learns of its servers, a while after Serve reports that the application runs."""
    answered = 0
    while answered < SETTLED:
        try:
            async with httpx.AsyncClient() as client:
                answered = answered + 1 if (await client.get(f"{address}/healthz")).is_success else 0
        except httpx.HTTPError:
            answered = 0
        await asyncio.sleep(POLL_S)
