"""Makes images through the project's own engine, with the defaults of serve_config.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageOps

from benchmarks.backends.engine_backend import reconstruct
from deployments.config import REPO_ROOT, AppConfig, Defaults, ModelConfig
from deployments.engine.async_engine import AsyncEngine
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.replica.build import build_engine

SERVE_CONFIG = REPO_ROOT / "serve_config.yaml"
PHOTO_PX = 256  # what the embedded checkpoints are made for


def app_config() -> AppConfig:
    """The application that serve_config.yaml describes."""
    (app,) = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    return AppConfig(**app["args"])


def model_of(checkpoint: Path) -> str:
    """The model of serve_config.yaml that the folder, or one that it is in, is named after. Raises ValueError."""
    models = app_config().models
    named = [part for part in checkpoint.resolve().parts if part in models]
    if not named:
        raise ValueError(f"{checkpoint}: no part of it names a model of {SERVE_CONFIG.name}: {', '.join(models)}")
    return named[-1]


def open_photo(file: Path, width: int = PHOTO_PX, height: int = PHOTO_PX) -> Pixels:
    """The middle of an image file, upright, as (height, width, 3)."""
    with Image.open(file) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return fit_photo(np.asarray(upright), width, height)


def fit_photo(photo: Pixels, width: int, height: int) -> Pixels:
    """The middle of a photo in another size, never stretched."""
    return np.asarray(ImageOps.fit(Image.fromarray(photo), (width, height), Image.Resampling.LANCZOS))


class Painter:
    """A checkpoint folder in the engine, in float32 on the CPU; `defaults` are for what a request leaves out."""

    def __init__(self, checkpoint: Path, defaults: Defaults | None = None) -> None:
        """Without `defaults`, those of `model_of` the folder; raises ValueError if there are none."""
        self.checkpoint = checkpoint
        self.defaults = defaults or app_config().defaults_for(model_of(checkpoint))
        model = ModelConfig(checkpoint=str(checkpoint.resolve()), device="cpu", dtype="float32")
        self._engine = build_engine(model)
        self._async_engine = AsyncEngine(self._engine)

    def request(self, photo: Pixels, prompt: str, **settings: Any) -> Img2ImgRequest:
        """A request for a photo with sides a multiple of 8; `settings` are the request's fields."""
        names = {"negative_prompt", "strength", "guidance_scale", "num_inference_steps", "sampler"}
        return Img2ImgRequest("", photo, prompt, **{**self.defaults.model_dump(include=names), **settings})

    def attempt(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels | Exception]:
        """Each request's image, or its error, in the requests' order."""
        numbered = [replace(request, request_id=str(i)) for i, request in enumerate(requests)]
        outcomes: list[Pixels | Exception] = []
        for future in self._async_engine.submit(numbered):
            try:
                outcomes.append(future.result().pixels)
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def paint(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """Each request's image. Raises the first error."""
        images = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, Exception):
                raise outcome
            images.append(outcome)
        return images

    def reconstruct(self, photos: Sequence[Pixels]) -> list[Pixels]:
        """Photos of one size as the autoencoder alone gives them back."""
        return reconstruct(self._engine, photos)
