"""What diffusers gives for one request alone: the reference of the parity tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.models.families import load_family
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Pixels
from deployments.engine.runner import Runner

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}


class Reference:
    """A stock diffusers pipeline, on a CPU in float32 if nothing else is said."""

    def __init__(self, checkpoint: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        is_sdxl = (checkpoint / "text_encoder_2").exists()
        pipeline_class = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
        self.pipeline = pipeline_class.from_pretrained(checkpoint, dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._config = self.pipeline.scheduler.config

    def __call__(self, request: Img2ImgRequest) -> Pixels:
        scheduler_class, options = SCHEDULERS[request.sampler]
        self.pipeline.scheduler = scheduler_class.from_config(self._config, **options)
        image = self.pipeline(
            request.prompt,
            image=Image.fromarray(request.pixels),
            negative_prompt=request.negative_prompt,
            strength=request.strength,
            guidance_scale=request.guidance_scale,
            num_inference_steps=request.num_inference_steps,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="np",
        ).images[0]
        return (image * 255).round().astype(np.uint8)  # type: ignore[no-any-return]


def make_engine(
    checkpoint: Path, *, max_rows: int = 8, reproducible: bool = False, device: str = "cpu", dtype: str = "float32"
) -> Engine:
    """An engine for a checkpoint folder on the eager backend."""
    return Engine(make_runner(checkpoint, reproducible=reproducible, device=device, dtype=dtype), max_rows=max_rows)


def make_runner(checkpoint: Path, *, device: str = "cpu", dtype: str = "float32", **options: Any) -> Runner:
    """A runner for a checkpoint folder on the eager backend; `load_family` has the options."""
    return Runner(load_unet_family(checkpoint, dtype, device=device, **options))


def load_unet_family(
    checkpoint: Path, dtype: str = "float32", *, device: str = "cpu", **options: Any
) -> StableDiffusion:
    """The family of a Stable Diffusion or SDXL checkpoint, as tests look into it; `load_family` has the options."""
    family = load_family(str(checkpoint), device=device, dtype=dtype, **options)
    assert isinstance(family, StableDiffusion)
    return family


def unet_family_of(engine: Engine) -> StableDiffusion:
    """The family behind `make_engine`'s engine."""
    assert isinstance(engine.runner, Runner)
    assert isinstance(engine.runner.family, StableDiffusion)
    return engine.runner.family


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, divided by that of `exact`."""
    return float((output.float() - exact.float()).norm() / exact.float().norm())


def run(engine: Engine, requests: list[Img2ImgRequest], *, join_every: int = 0) -> dict[str, Pixels]:
    """All images, by request id; one request joins every `join_every` steps (0: all at once). Any failure raises."""
    todo, images, step = list(requests), dict[str, Pixels](), 0
    while todo or engine.has_work:
        while todo and (join_every == 0 or step % join_every == 0 or not engine.has_work):
            engine.add([engine.runner.prepare(todo.pop(0))])
            if join_every:
                break
        for request_id, result in engine.step():
            if not isinstance(result, Img2ImgOutput):
                raise result
            images[request_id] = result.pixels
        step += 1
    return images


def smooth_image(seed: int, width: int, height: int) -> Pixels:
    """A smooth random image."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
