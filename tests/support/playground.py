"""The application that the playground's tests open in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import Service, serving

DEFAULTS = {"max_side": 128, "strength": 0.6, "guidance_scale": 2.5, "num_inference_steps": 10}


@contextmanager
def serving_playground(ink: Callable[[Path], Path]) -> Iterator[Service]:
    """Two trained models, `bold` with a queue of one, and `waiting`, which never starts."""
    checkpoint = Path("data/models/tiny-sd15")
    models: dict[str, dict[str, Any]] = {
        "fine": {
            "checkpoint": str(checkpoint),
            "reproducible": True,
            "loras": {"ink": str(ink(checkpoint))},
            "defaults": DEFAULTS,
        },
        "bold": {
            "checkpoint": "data/models/tiny-sd21v",
            "defaults": DEFAULTS | {"strength": 0.5, "negative_prompt": "blurry"},
        },
        "waiting": {"checkpoint": str(checkpoint)},
    }
    deployments = {
        "bold": {"max_ongoing_requests": 1, "max_queued_requests": 1},
        "waiting": {"ray_actor_options": {"num_cpus": 1000}, "graceful_shutdown_timeout_s": 0},
    }
    with serving(models, deployments=deployments, wait_for=2) as service:
        yield service
