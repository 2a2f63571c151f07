"""Joins the running app or starts it. At the end it stops what it started: the app, the Ray cluster, or neither."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatus, ServeDeploySchema

from deployments.config import AppConfig
from deployments.ray_private import check_cluster, deploy_apps, ingress_handle, one_attempt

BUILDER = "deployments.app:build_app"  # whose arguments are an AppConfig
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
POLL_S = 0.2
ANNOUNCED_AFTER_S = 5.0
START_TIMEOUT_S = 1800.0  # for checkpoints to be downloaded and loaded, or for a cluster to get room
ALONE = "RAY_ADDRESS=local starts the app in a cluster of its own"
RUNNING = (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY)  # unhealthy: its other models still serve
READY = (DeploymentStatus.HEALTHY, DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
FAILED = (DeploymentStatus.DEPLOY_FAILED, DeploymentStatus.UNHEALTHY)
ROUTER = "router"


class AppNotStarted(Exception):
    """The app neither runs nor starts. The message gives the reason."""


class App:
    """The app: its configuration, in most cases known before it runs, and its ingress."""

    def __init__(self, path: Path, name: str, on_progress: Callable[[str], None], stack: ExitStack) -> None:
        self._path = path
        self._name = name
        self._on_progress = on_progress
        self._stack = stack
        self._is_joined = _join(name, on_progress, stack)

    @cached_property
    def config(self) -> AppConfig:
        """Read from the file if the app does not run yet and this project builds it. Raises AppNotStarted."""
        if not self._is_joined:
            (application,) = read_serve_config(self._path, self._name).applications
            with suppress(ValidationError):  # Serve's own message is clearer
                if application.import_path == BUILDER:
                    return AppConfig.model_validate(application.args)
        config: AppConfig = self.router_for(()).config.remote().result()
        return config

    def router_for(self, models: Collection[str]) -> DeploymentHandle:
        """The ingress, once all models are ready, or `models` are and others have failed. Raises AppNotStarted.

        Starts the app if it does not run.
        """
        if not self._is_joined:
            self._is_joined = True
            schema = read_serve_config(self._path, self._name)
            if not ray.is_initialized():
                self._stack.callback(ray.shutdown)
                _start_cluster()
            self._stack.callback(serve.shutdown)
            serve.start(proxy_location="Disabled")
            deploy_apps(schema)
        _wait_until_ready(self._name, models, self._on_progress)
        return ingress_handle(self._name)


@contextmanager
def find_app(config_path: Path, app_name: str, on_progress: Callable[[str], None]) -> Iterator[App]:
    """The app `app_name` of the cluster of RAY_ADDRESS, or else of the cluster on this machine (`serve run`).

    If it does not run, its `router` starts it from the Serve configuration file, in the cluster of RAY_ADDRESS or in a
    cluster of its own, and it is stopped at the end. `on_progress` gets a message for each change of a deployment.
    Raises AppNotStarted.
    """
    with ExitStack() as stack:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        yield App(config_path, app_name, on_progress, stack)


def _join(app_name: str, on_progress: Callable[[str], None], stack: ExitStack) -> bool:
    """Connect to the app's cluster. Returns whether the app runs there."""
    if not ray.is_initialized() and os.environ.get("RAY_ADDRESS") == "local":
        return False  # a cluster of our own is started only when needed
    chosen = ray.is_initialized() or "RAY_ADDRESS" in os.environ
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            with _announced(f"looking for the app {app_name!r} on the Ray cluster {address!r}; {ALONE}", on_progress):
                _connect(address)
        except (OSError, ValueError, RayError) as error:
            if not chosen:
                return False
            raise AppNotStarted(f"RAY_ADDRESS {address!r}: {error}. {ALONE}") from error
        stack.callback(ray.shutdown)
    running = serve.status().applications
    if chosen and running and app_name not in running:
        raise AppNotStarted(f"the cluster serves no app {app_name!r}; apps: {', '.join(running)}")
    if not chosen and app_name not in running:
        ray.shutdown()  # nothing is started in another program's cluster
    return app_name in running


def _connect(address: str) -> None:
    """Join the cluster at `address`, as ray.init takes it. Raises OSError, ValueError, RayError."""
    if ":" in address and "://" not in address:
        check_cluster(address)
    with one_attempt():
        ray.init(address, **QUIET)


def _start_cluster() -> None:
    """Start a cluster of our own. Raises AppNotStarted.

    Its token is a new one that nobody else needs, where Ray cannot write one to the home folder.
    """
    try:
        try:
            ray.init(**QUIET)
        except OSError:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            ray.init(**QUIET)
    except OSError as error:
        raise AppNotStarted(f"Ray does not start: {error}") from error


@contextmanager
def _announced(message: str, on_progress: Callable[[str], None]) -> Iterator[None]:
    """Tell the message if the block takes long."""
    timer = threading.Timer(ANNOUNCED_AFTER_S, on_progress, [message])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_serve_config(path: Path, app_name: str) -> ServeDeploySchema:
    """The Serve configuration file, reduced to the app `app_name`. Raises AppNotStarted."""
    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, ValidationError, yaml.YAMLError) as error:
        raise AppNotStarted(f"{path}: {error}") from error
    apps = [app for app in schema.applications if app.name == app_name]
    if not apps:
        names = ", ".join(app.name for app in schema.applications)
        raise AppNotStarted(f"{path} has no app {app_name!r}; apps: {names}")
    return schema.model_copy(update={"applications": apps})


def _wait_until_ready(app_name: str, models: Collection[str], on_progress: Callable[[str], None]) -> None:
    """Return once Serve has started the app, or what `models` need of an app that has failed. Raises AppNotStarted."""
    started = time.monotonic()
    reported: dict[str, str] = {}
    while True:
        app = serve.status().applications[app_name]
        now = {name: f"{d.status.value.lower()} {_one_line(d.message)}".rstrip() for name, d in app.deployments.items()}
        for name, status in now.items():
            if reported.get(name) != status:
                on_progress(f"[{time.monotonic() - started:.1f} s] {name}: {status}")
        reported |= now
        if app.status in RUNNING:
            return
        if app.status == ApplicationStatus.DEPLOY_FAILED and _can_serve(app, models):
            return
        if time.monotonic() - started > START_TIMEOUT_S:
            waiting = "; ".join(f"{name}: {status}" for name, status in now.items())
            raise AppNotStarted(f"not ready after {START_TIMEOUT_S / 60:g} minutes: {waiting}")
        time.sleep(POLL_S)


def _can_serve(app: ApplicationStatusOverview, models: Collection[str]) -> bool:
    """Whether an app of which some deployment failed can serve `models`. Raises AppNotStarted if it never will."""
    needed = [name for name in (ROUTER, *models) if name in app.deployments]
    failed = [name for name in needed or app.deployments if app.deployments[name].status in FAILED]
    if failed or not needed:
        reasons = [f"{name} does not start: {_one_line(app.deployments[name].message)}" for name in failed]
        raise AppNotStarted("; ".join(reasons) or _one_line(app.message))
    return all(app.deployments[name].status in READY for name in needed)


def _one_line(text: str) -> str:
    """The first line, but of a traceback the last one, which is the error."""
    first, *others = text.strip().split("\n")
    return others[-1] if "Traceback" in text and others else first
