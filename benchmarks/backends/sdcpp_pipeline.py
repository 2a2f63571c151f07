"""stable-diffusion.cpp through its Python binding, on the same weights: it reads diffusers' folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stable_diffusion_cpp import StableDiffusion

from benchmarks.backends.pipelines import shared
from deployments.engine.request import Img2ImgRequest, Pixels

DTYPES = {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}
ALL_STEPS = 0.9999  # its strength cuts steps off, and these are cut already; at 1 it would ignore the source


class SdCppPipeline:
    """DPM-Solver++ 2M over diffusers' sigmas, torch's random numbers, all cores.

    The images are not the script's: it carries CLIP's own tokenizer and takes the mean of the VAE's posterior.
    `dtype` is that of the weights; activations are float32.
    """

    def __init__(self, checkpoint: str, cache_dir: Path) -> None:
        folder = _readable(Path(checkpoint).resolve(), cache_dir.resolve() / f"sdcpp-{Path(checkpoint).name}")
        self._scheduler = DPMSolverMultistepScheduler.from_pretrained(checkpoint, subfolder="scheduler")
        self._model = StableDiffusion(
            model_path=str(folder), n_threads=len(os.sched_getaffinity(0)), rng_type="cpu", verbose=False
        )
        with safe_open(Path(checkpoint) / "unet" / "diffusion_pytorch_model.safetensors", "pt") as weights:
            self.dtype = DTYPES[weights.get_slice(next(iter(weights.keys()))).get_dtype()]

    def __call__(self, requests: Sequence[Img2ImgRequest]) -> list[Pixels]:
        """One image after the other."""
        return [self._image(request) for request in requests]

    def _image(self, request: Img2ImgRequest) -> Pixels:
        _, guidance_scale, steps = shared(request)
        self._scheduler.set_timesteps(steps)
        sigmas = self._scheduler.sigmas[-request.num_denoise_steps - 1 :].tolist()
        height, width = request.pixels.shape[:2]
        (image,) = self._model.generate_image(
            prompt=request.prompt,
            init_image=Image.fromarray(request.pixels),
            width=width,
            height=height,
            cfg_scale=max(1.0, guidance_scale),  # 1: no second row
            sample_method="dpm++2m",
            sample_steps=request.num_denoise_steps,
            sigmas=",".join(map(str, sigmas)),
            strength=ALL_STEPS,
            seed=request.seed,
        )
        return np.array(image.convert("RGB"))


def _readable(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with its text encoder's weights by the names they had before transformers 5, which it expects."""
    for network in ("unet", "vae", "text_encoder"):
        (folder / network).mkdir(parents=True, exist_ok=True)
    for part in (Path(name) / "diffusion_pytorch_model.safetensors" for name in ("unet", "vae")):
        if not (folder / part).exists():
            (folder / part).unlink(missing_ok=True)  # a link whose checkpoint was moved
            (folder / part).symlink_to(checkpoint / part)
    text = Path("text_encoder") / "model.safetensors"
    if not (folder / text).exists():
        weights = load_file(checkpoint / text)
        save_file({f"text_model.{name.removeprefix('text_model.')}": w for name, w in weights.items()}, folder / text)
    return folder
