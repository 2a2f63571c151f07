"""One application for the tests of every HTTP API: they ask the same models in different words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import Service, serving

MODELS = ["sd15", "sdxl", "mortal", "trained", "absent", "asleep"]
ALIASES = ["runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "gpt-image-1"]
LIMITS = {"max_upload_bytes": 2_000_000, "max_pixels": 4_000_000, "max_images": 3, "max_steps": 200}

AT_ZERO = {  # and back at zero soon after a failed start: the next module waits for that
    "autoscaling_config": {
        "min_replicas": 0,
        "max_replicas": 1,
        "downscale_delay_s": 8,
        "metrics_interval_s": 1,
        "look_back_period_s": 2,
        "policy": {"policy_function": "deployments.autoscaling:QueuedSteps"},
    }
}


@contextmanager
def serving_every_api(checkpoints: Callable[[str], Path], ink: Callable[[Path], Path]) -> Iterator[Service]:
    """The application with MODELS.

    `mortal` has requests that take long. `trained` makes images to look at. `absent` and `asleep` cannot
    start, and `asleep` only tries when it is asked for.
    """
    sd15: dict[str, Any] = {"checkpoint": str(checkpoints("sd15")), "reproducible": True}
    sdxl = {"checkpoint": str(checkpoints("sdxl")), "dtype": "float32", "defaults": {"num_inference_steps": 6}}
    absent = {"checkpoint": str(checkpoints("inpainting")), "fallback": ["sd15"]}
    models: dict[str, dict[str, Any]] = {
        "sd15": {**sd15, "aliases": ALIASES, "loras": {"ink": str(ink(checkpoints("sd15")))}},
        "sdxl": sdxl,
        "mortal": {**sd15, "defaults": {"num_inference_steps": 150}},
        "trained": {"checkpoint": "data/models/tiny-sd15"},
        "absent": absent,
        "asleep": {**absent, "weight": 0},
    }
    with serving(models, deployments={"asleep": AT_ZERO}, wait_for=5, limits=LIMITS, seed=1) as service:
        yield service
