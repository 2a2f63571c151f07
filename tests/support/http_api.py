"""One application for the tests of every HTTP API: they ask the same models in different words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import Service, serving

MODELS = ["sd15", "sdxl", "mortal", "trained", "absent"]
ALIASES = ["runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "gpt-image-1"]
LIMITS = {"max_upload_bytes": 2_000_000, "max_pixels": 4_000_000, "max_images": 3, "max_steps": 200}


@contextmanager
def serving_every_api(checkpoints: Callable[[str], Path], ink: Callable[[Path], Path]) -> Iterator[Service]:
    """The application with MODELS.

    `mortal` has requests that take long. `trained` makes images to look at. `absent` never gets ready.
    """
    sd15: dict[str, Any] = {"checkpoint": str(checkpoints("sd15")), "reproducible": True}
    sdxl = {"checkpoint": str(checkpoints("sdxl")), "dtype": "float32", "defaults": {"num_inference_steps": 6}}
    models: dict[str, dict[str, Any]] = {
        "sd15": {**sd15, "aliases": ALIASES, "loras": {"ink": str(ink(checkpoints("sd15")))}},
        "sdxl": sdxl,
        "mortal": {**sd15, "defaults": {"num_inference_steps": 150}},
        "trained": {"checkpoint": "data/models/tiny-sd15"},
        "absent": {"checkpoint": str(checkpoints("inpainting")), "fallback": ["sd15"]},
    }
    with serving(models, wait_for=4, limits=LIMITS, seed=1) as service:
        yield service
