"""Finds the running app or starts it, and stops at the end what it started: the app, the Ray cluster, or neither."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from deployments.config import AppConfig

POLL_S = 0.2
SHOWN_CHARS = 2000  # of Serve's reason for a failure: the end, where the traceback names the error
READY = (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY)  # unhealthy: its other models still serve


class AppNotStarted(Exception):
    """There is no app to work with, and the message says why."""


@contextmanager
def connect(
    config_path: Path, app_name: str, say: Callable[[str], None]
) -> Iterator[tuple[DeploymentHandle, AppConfig]]:
    """The ingress of the app `app_name` and the app's configuration, once every model is ready.

    Joins the app where it runs: in the cluster of RAY_ADDRESS, or else on this machine (`serve run`). Else starts it
    from the Serve configuration file, in the cluster of RAY_ADDRESS or `ray start`, or in one of its own.
    `say` hears of each model that gets ready. Raises AppNotStarted.
    """
    with ExitStack() as stack:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _join_or_start_ray(app_name)
        running = serve.status().applications
        if app_name not in running:
            if running:
                raise AppNotStarted(f"the cluster serves no app {app_name!r}; apps: {', '.join(running)}")
            stack.callback(serve.shutdown)
            _deploy(config_path, app_name)
        _wait_until_ready(app_name, say)
        router = serve.get_app_handle(app_name)
        yield router, router.config.remote().result()


def _join_or_start_ray(app_name: str) -> None:
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        try:
            ray.init("auto", **quiet)
        except ConnectionError:
            pass
        else:
            if app_name in serve.status().applications:
                return
            ray.shutdown()  # another program's cluster, perhaps a private one: nothing is started there
    try:
        ray.init(**quiet)
    except ConnectionError as error:
        raise AppNotStarted(f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS')!r}: {error}") from error


def _deploy(config_path: Path, app_name: str) -> None:
    """What `serve run FILE` does, without opening a port."""
    schema = read_serve_config(config_path, app_name)
    serve.start(proxy_location="Disabled")
    _get_global_client().deploy_apps(schema)


def read_serve_config(path: Path, app_name: str) -> ServeDeploySchema:
    """The Serve configuration file, reduced to the app `app_name`. Raises AppNotStarted."""
    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, ValidationError, yaml.YAMLError) as error:
        raise AppNotStarted(f"{path}: {error}") from error
    apps = [app for app in schema.applications if app.name == app_name]
    if not apps:
        names = ", ".join(app.name for app in schema.applications)
        raise AppNotStarted(f"{path} describes no app {app_name!r}; apps: {names}")
    return schema.model_copy(update={"applications": apps})


def _wait_until_ready(app_name: str, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    told: dict[str, str] = {}
    while True:
        app = serve.status().applications[app_name]
        for name, deployment in app.deployments.items():
            news = f"{name}: {deployment.status.value.lower()} {deployment.message}".rstrip()
            if told.get(name) != news:
                say(f"[{time.monotonic() - started:.1f} s] {news}")
                told[name] = news
        if app.status in READY:
            return
        if app.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = [app.message, *(d.message for d in app.deployments.values())]
            raise AppNotStarted("\n".join(reasons)[-SHOWN_CHARS:])
        time.sleep(POLL_S)
