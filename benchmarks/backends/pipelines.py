"""The calls of diffusers' pipelines that backends make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from benchmarks.backends.spec import Device
from deployments.engine.models.devices import choose_dtype
from deployments.engine.request import Img2ImgRequest, Pixels

Shared = tuple[float, float, int]


class Pipeline(Protocol):
    """A loaded model. The requests of one call share strength, guidance and steps (`shared`)."""

    dtype: str

    def __call__(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]: ...


class StockPipeline:
    """A pipeline with DPM-Solver++ 2M. Without `dtype`: float32 on a CPU, float16 on CUDA."""

    def __init__(self, checkpoint: str, device: Device, *, dtype: torch.dtype | None = None) -> None:
        is_sdxl = (Path(checkpoint) / "text_encoder_2").exists()
        pipeline_class = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
        dtype = dtype or (torch.float16 if device == "cuda" else torch.float32)
        self._pipeline = pipeline_class.from_pretrained(checkpoint, dtype=dtype)
        self._pipeline.scheduler = DPMSolverMultistepScheduler.from_config(self._pipeline.scheduler.config)
        self._pipeline.set_progress_bar_config(disable=True)
        self.dtype = str(dtype).removeprefix("torch.")
        self._pipeline.to(device)

    def __call__(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """The images of requests that share strength, guidance and steps (`shared`), in one pipeline call."""
        ((strength, guidance_scale, steps),) = {shared(request) for request in requests}
        images = self._pipeline(
            [request.prompt for request in requests],
            image=[Image.fromarray(request.pixels) for request in requests],
            strength=strength,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
        ).images
        return [np.array(image) for image in images]


class BestPipeline(StockPipeline):
    """diffusers with every option that is faster and leaves the images what they are.

    `dtype` "auto" measures, as the engine does.
    """

    def __init__(self, checkpoint: str, device: Device, dtype: str) -> None:
        prediction_type = DPMSolverMultistepScheduler.load_config(checkpoint, subfolder="scheduler")["prediction_type"]
        chosen = choose_dtype(
            dtype, torch.device(device), overflows=prediction_type == "v_prediction", reproducible=False
        )
        super().__init__(checkpoint, device, dtype=chosen)
        self._pipeline.fuse_qkv_projections(vae=False)
        self._pipeline.unet.to(memory_format=torch.channels_last)
        self._pipeline.vae.to(memory_format=torch.channels_last)
        if device == "cuda":  # no gain on a CPU: the matmuls are the library's either way
            self._pipeline.unet.compile(fullgraph=True, dynamic=False)
            self._pipeline.vae.decoder.compile(fullgraph=True, dynamic=False)


def shared(request: Img2ImgRequest) -> Shared:
    """What one call takes once, so what requests of one call must agree on: strength, guidance scale, steps."""
    return request.strength, request.guidance_scale, request.num_inference_steps
