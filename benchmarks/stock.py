"""diffusers as it comes: the pipeline calls that the ways without our engine make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from benchmarks.records import Device
from deployments.engine.request import Img2ImgRequest, Pixels

Shared = tuple[float, float, int]


class StockPipeline:
    """A pipeline with DPM-Solver++ 2M, float32 on a CPU and float16 on CUDA.

    `offload` turns on attention slicing and model offload, which save memory and cost time.
    """

    def __init__(self, checkpoint: str, device: Device, *, offload: bool = False) -> None:
        is_sdxl = (Path(checkpoint) / "text_encoder_2").exists()
        pipeline_class = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._pipeline = pipeline_class.from_pretrained(checkpoint, dtype=dtype)
        self._pipeline.scheduler = DPMSolverMultistepScheduler.from_config(self._pipeline.scheduler.config)
        self._pipeline.set_progress_bar_config(disable=True)
        self.dtype = str(dtype).removeprefix("torch.")
        if offload:
            self._pipeline.enable_attention_slicing()
            self._pipeline.enable_model_cpu_offload()
        else:
            self._pipeline.to(device)

    def __call__(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """The pictures of requests that share strength, guidance and steps (`shared`), in one pipeline call."""
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

    def grouped(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """The pictures of any requests, in their order: one call for each set of equal settings."""
        groups: dict[Shared, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(shared(request), []).append(i)
        pictures: dict[int, Pixels] = {}
        for group in groups.values():
            pictures.update(zip(group, self([requests[i] for i in group]), strict=True))
        return [pictures[i] for i in range(len(requests))]


def shared(request: Img2ImgRequest) -> Shared:
    """What diffusers takes once per call, so what requests must agree on to go into one."""
    return request.strength, request.guidance_scale, request.num_inference_steps
