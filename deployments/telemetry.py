"""Logs and Prometheus metrics. Serve tags each metric with its deployment, which for a model is its id."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ray.serve.metrics import Counter, Gauge, Histogram

from deployments.engine.request import Img2ImgOutput

SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]
COUNTERS = {
    "steps": "UNet steps, each of one step batch",
    "unet_rows": "rows of requests in UNet steps, without padding",
    "step_s": "seconds spent in UNet steps",
    "finished": "images finished",
    "failed": "requests that failed with an error",
    "aborted": "requests whose caller disconnected",
    "out_of_memory": "steps that ran out of memory and were retried with fewer rows",
    "prompt_hits": "prompts found in the cache of encoded prompts",
    "prompt_misses": "prompts that were encoded",
    "image_hits": "images found in the cache of encoded images",
    "image_misses": "images that were encoded",
}
GAUGES = {
    "waiting": "requests that wait for the step batch",
    "running": "requests in the step batch",
    "queued_steps": "steps left to run of all requests",
    "load_s": "seconds the checkpoint took to load",
    "gpu_memory_bytes": "GPU memory reserved by the replica",
}


def log_with_serve() -> None:
    """Send this package's log to Serve's handlers, with Serve's request ids, encoding and level."""
    ours, serves = logging.getLogger("deployments"), logging.getLogger("ray.serve")
    ours.handlers, ours.propagate = serves.handlers, False
    ours.setLevel(serves.level)


class ModelMetrics:
    """A replica's counters and gauges, set by `update`, and the times of each image, added by `observe`."""

    def __init__(self, load_s: float) -> None:
        self._counters = {name: Counter(f"img2img_{name}", text) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(f"img2img_{name}", text) for name, text in GAUGES.items()}
        self._queue_wait = Histogram("img2img_queue_wait_s", "seconds from arrival to admission", SECONDS)
        self._denoise = Histogram("img2img_denoise_s", "seconds of an image's steps", SECONDS)
        self._counted: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._load_s = load_s

    def update(self, stats: Mapping[str, float]) -> None:
        """Set all metrics from the engine's `stats()`, which count since its start."""
        for name, counter in self._counters.items():
            if (more := stats[name] - self._counted[name]) > 0:
                counter.inc(more)
                self._counted[name] = stats[name]
        now = {**stats, "load_s": self._load_s}
        for name, gauge in self._gauges.items():  # all of them each time: Ray drops a gauge that is not set again
            gauge.set(now[name])

    def observe(self, output: Img2ImgOutput) -> None:
        """Add the times of a finished image."""
        self._queue_wait.observe(output.timings.queued_s)
        self._denoise.observe(output.timings.denoise_s)


class CallMetrics:
    """Requests by the name of the API key and the status of the reply."""

    def __init__(self) -> None:
        self._calls = Counter("img2img_calls", "requests by key and status", ("key", "status"))

    def __call__(self, key: str, status: int) -> None:
        self._calls.inc(tags={"key": key, "status": str(status)})
