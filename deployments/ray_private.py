"""Every private call of Ray's in this project. Each names the version of Ray that it was read in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it is compiled
from ray.serve.context import _get_global_client, _get_serve_request_context
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

TCP_TIMEOUT_S = 5.0


def check_cluster(address: str) -> None:
    """Return if the cluster at HOST:PORT answers this program.

    Raises OSError, and RayError if it refuses the token or is silent for 40 s. Ray 2.60: `ray._raylet.GcsClient`;
    `ray.init` tries this 20 times, and then names no reason.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), TCP_TIMEOUT_S).close()
    GcsClient(address=address)


@contextmanager
def one_attempt() -> Iterator[None]:
    """Let `ray.init` try once to reach a cluster, which takes 40 s if that is silent, and not 20 times.

    Ray 2.60: `Node._init_gcs_client` counts its attempts by this variable.
    """
    name = "RAY_gcs_server_port_wait_time_s"
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def deploy_apps(schema: ServeDeploySchema) -> None:
    """What `serve deploy FILE` does, without an open port: replicas start in the background.

    Ray 2.60: `ServeControllerClient.deploy_apps`. The public `serve.run` takes no configuration file.
    """
    _get_global_client().deploy_apps(schema)


def ingress_handle(app_name: str) -> DeploymentHandle:
    """The handle to an application's ingress, for programs with and without an event loop.

    Ray 2.60: `DeploymentHandle._init`. With RAY_SERVE_THROUGHPUT_OPTIMIZED=1 a handle would else work in coroutines
    only.
    """
    call_replicas_without_proxy()
    handle = serve.get_app_handle(app_name)
    if not handle.is_initialized:  # Serve's client keeps handles
        handle._init(_run_router_in_separate_loop=True)
    return handle


def call_replicas_without_proxy() -> None:
    """Keep this process's calls to replicas off the proxy that http_proxy or https_proxy name.

    Ray 2.60: `RAY_SERVE_USE_GRPC_BY_DEFAULT`, part of RAY_SERVE_THROUGHPUT_OPTIMIZED=1, calls replicas by gRPC, which
    obeys these variables. An empty grpc_proxy comes first and means none.
    """
    os.environ.setdefault("grpc_proxy", "")


def deployment_details(app_name: str) -> dict[str, dict[str, Any]]:
    """The state of each deployment of an application, by name: `status`, `message`, and `replicas` with a `state`.

    Empty while Serve builds the application. Ray 2.60: `ServeControllerClient.get_serve_details`, the source of
    `serve.status()`, whose own validation takes 57 ms of this process's time per call.
    """
    app = _get_global_client().get_serve_details()["applications"].get(app_name, {})
    details: dict[str, dict[str, Any]] = app.get("deployments") or {}
    return details


def request_id() -> str:
    """Serve's id of the current request, which its logs and `x-request-id` show; "" outside a request.

    Ray 2.60: `_get_serve_request_context().request_id`. There is no public accessor.
    """
    context_id: str = _get_serve_request_context().request_id
    return context_id
