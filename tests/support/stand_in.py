"""A small Serve app with the real router's handle methods, which inverts images and misbehaves when an image asks.

An image asks with its first pixel, one of `ASKS`. What must happen only so many times to an image of one width is
counted by files in `notes`, as a replica that dies forgets everything else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError

from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Mask, Pixels, Timings
from deployments.errors import ModelNotReady
from deployments.schemas import Img2ImgResult, Settings

ASKS = {
    (250, 0, 1): "refuse",
    (250, 0, 2): "full twice",
    (250, 0, 3): "die once",
    (250, 0, 4): "kill the caller",
    (250, 0, 5): "not ready once",
    (250, 0, 6): "never answer",
    (250, 0, 7): "take a while",
    (250, 0, 8): "end the caller once",
}
FULL_TWICE_S = 2.5  # longer than the client would wait by itself
A_WHILE_S = 0.4
MODELS = {"red": {"checkpoint": "none", "aliases": ["someone/red"]}, "blue": {"checkpoint": "none", "weight": 3}}


def asking(ask: str, width: int = 40, height: int = 30) -> Pixels:
    """An image of one colour that makes the stand-in do `ask`."""
    colour = next(colour for colour, what in ASKS.items() if what == ask)
    return np.full((height, width, 3), colour, np.uint8)


@serve.deployment(
    name="router",
    num_replicas=2,
    max_ongoing_requests=4,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=1,
    graceful_shutdown_timeout_s=1,
)
class StandIn:
    """The router's handle methods."""

    def __init__(self, config: AppConfig, notes: str, *_: object) -> None:
        self._config = config
        self._notes = Path(notes)

    def config(self) -> AppConfig:
        return self._config

    async def img2img(
        self, pixels: Pixels, settings: Settings, priority: str, request_id: str, mask: Mask | None
    ) -> Img2ImgResult:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        assert max(pixels.shape) <= settings.max_side
        assert priority == "folder"
        assert request_id
        ask = ASKS.get(tuple(pixels[0, 0].tolist()))
        if ask == "never answer":
            await asyncio.Event().wait()
        if ask in ("take a while", "die once"):  # whose replica dies before Serve knows it took the image never had it
            await asyncio.sleep(A_WHILE_S)
        if ask is not None:
            self._misbehave(ask, pixels.shape[1], settings.model)
        timings = Timings(queued_s=0.25, denoise_s=0.5)
        return Img2ImgResult(settings, 255 - pixels, 6, "", timings)

    def _misbehave(self, ask: str, width: int, model: str) -> None:
        times = len(list(self._notes.glob(f"{ask} {width} *")))
        (self._notes / f"{ask} {width} {times}").touch()
        if ask == "refuse":
            raise InvalidRequest("sampler must be euler for this model", "sampler")
        if ask == "full twice" and times < 2:
            raise BackPressureError(4, 4, status_code=429, retry_after_s=FULL_TWICE_S)
        if ask == "die once" and times < 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if ask == "kill the caller":
            signal_image_workers(signal.SIGKILL)
        if ask == "end the caller once" and times < 1:
            signal_image_workers(signal.SIGTERM)
        if ask == "not ready once" and times < 1:
            raise ModelNotReady(model, "loading")


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Broken:
    """A model that does not load."""

    def __init__(self) -> None:
        raise FileNotFoundError("no unet in this checkpoint")


def signal_image_workers(number: signal.Signals) -> None:
    """Kill the folder job's processes in this Ray cluster, as the system does when memory runs out, or end them."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _is_image_worker(process):
            os.kill(int(process.name), number)


def _is_image_worker(process: Path) -> bool:
    try:
        same_cluster = f"\nPPid:\t{os.getppid()}\n" in (process / "status").read_text()
        return same_cluster and b"RowWorker" in (process / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return False


def build_app(args: dict[str, Any]) -> Application:
    """For configuration files: `broken: true` has a model that does not load, `broken: beside` has it beside others."""
    if args.get("broken") == "beside":
        return StandIn.bind(AppConfig(models=MODELS), tempfile.mkdtemp(), Broken.options(name="blue").bind())
    if args.get("broken"):
        return Broken.options(name="red").bind()
    return StandIn.bind(AppConfig(models=MODELS), tempfile.mkdtemp())
