"""Makes pictures through the project's own engine, with the defaults that serve_config.yaml gives a visitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image, ImageOps

from deployments.config import REPO_ROOT, AppConfig, Defaults, ModelConfig
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from deployments.model import build_engine

SERVE_CONFIG = REPO_ROOT / "serve_config.yaml"
PICTURE_PX = 256  # what the embedded checkpoints are made for


def defaults_of(model_id: str) -> Defaults:
    """What serve_config.yaml gives to requests for a model. Raises ValueError naming the models there are."""
    (app,) = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    config = AppConfig(**app["args"])
    if model_id not in config.models:
        raise ValueError(f"{SERVE_CONFIG.name} has no model {model_id!r}; models: {', '.join(config.models)}")
    return config.defaults_for(model_id)


def open_photo(file: Path, width: int = PICTURE_PX, height: int = PICTURE_PX) -> Pixels:
    """The middle of a picture file, upright, as (height, width, 3)."""
    with Image.open(file) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return fit_photo(np.asarray(upright), width, height)


def fit_photo(photo: Pixels, width: int, height: int) -> Pixels:
    """The middle of a photo in another size, never stretched."""
    return np.asarray(ImageOps.fit(Image.fromarray(photo), (width, height), Image.Resampling.LANCZOS))


class Painter:
    """A checkpoint folder in the engine, in float32 on the CPU; `defaults` are for what a request leaves out."""

    def __init__(self, checkpoint: Path, defaults: Defaults) -> None:
        self.checkpoint = checkpoint
        self.defaults = defaults
        model = ModelConfig(checkpoint=str(checkpoint.resolve()), device="cpu", dtype="float32")
        self._engine = build_engine(model)
        assert isinstance(self._engine.runner, Runner)
        self._runner = self._engine.runner

    def request(self, photo: Pixels, prompt: str, **settings: Any) -> Img2ImgRequest:
        """A request for a photo with sides a multiple of 8; `settings` are the request's fields."""
        names = {"negative_prompt", "strength", "guidance_scale", "num_inference_steps", "sampler"}
        return Img2ImgRequest("", photo, prompt, **{**self.defaults.model_dump(include=names), **settings})

    def attempt(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels | Exception]:
        """Each request's picture, or why there is none, in the requests' order."""
        outcomes: dict[str, Pixels | Exception] = {}
        self._engine.add(
            self._runner.prepare(replace(request, request_id=str(i))) for i, request in enumerate(requests)
        )
        while self._engine.has_work:
            for request_id, result in self._engine.step():
                outcomes[request_id] = result.pixels if isinstance(result, Img2ImgOutput) else result
        return [outcomes[str(i)] for i in range(len(requests))]

    def paint(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """Each request's picture. Raises what any of them fails with."""
        pictures = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, Exception):
                raise outcome
            pictures.append(outcome)
        return pictures

    @torch.inference_mode()
    def reconstruct(self, photos: Sequence[Pixels]) -> list[Pixels]:
        """Photos of one size as they come back from the autoencoder alone."""
        codec, generator = self._runner.codec, torch.Generator("cpu").manual_seed(0)
        latents = [codec.sample(moments, generator) for moments in codec.encode(photos)]
        return codec.decode(torch.stack(latents))
