"""Every private call of Ray's in this project. Each names the version of Ray that it was read in."""

from __future__ import annotations

from typing import Any

from ray.serve.context import _get_global_client, _get_serve_request_context
from ray.serve.schema import ServeDeploySchema


def deploy_apps(schema: ServeDeploySchema) -> None:
    """What `serve deploy FILE` does, without an open port: replicas start in the background.

    Ray 2.60: `ServeControllerClient.deploy_apps`. The public `serve.run` takes no configuration file.
    """
    _get_global_client().deploy_apps(schema)


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
