"""What three shortcuts would save, and what they do to pictures: why none of them is offered.

`reuse`: the deep features of an earlier step instead of this one's, all but the outermost layers (DeepCache, Ma et al.
2024, 3.3), computed anew every second or third step. `int8`: linear layers in 8 bits, by torch, activations as they
come. A small VAE is only timed: one that was trained for SD1.5's latents (TAESD) would have to be downloaded.

python -m benchmarks.lossy > benchmarks/results/lossy.json
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionImg2ImgPipeline
from torch import nn

from benchmarks.architectures import TINY, UNETS, VAE
from benchmarks.machine import describe_machine, git_commit
from benchmarks.records import Options
from benchmarks.summary import psnr
from benchmarks.workload import make_requests
from deployments.engine.request import Img2ImgRequest, Pixels
from training.tiny import make_unet

IMAGES, SIDE, ROUNDS, STEPS = 8, 256, 5, 17  # steps: of an image on average in guided settings
WAYS = "exact", "reuse_2", "reuse_3", "int8"


class Reuse:
    """Stands for the UNet's forward; the deep features are new at step 0, `every`, 2 `every`..."""

    def __init__(self, unet: Any, every: int) -> None:
        self._unet, self._every, self._forward = unet, every, unet.forward
        self._last = unet.up_blocks[-1]
        self._last.resnets[-1].register_forward_pre_hook(self._keep)
        self._deep = torch.empty(0)
        self.step = 0

    def __call__(self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **options: Any) -> Any:
        is_new, self.step = self.step % self._every == 0, self.step + 1
        if is_new:
            return self._forward(sample, timestep, encoder_hidden_states, **options)
        return (self.shallow(sample, timestep, encoder_hidden_states),)

    def shallow(self, sample: torch.Tensor, timestep: Any, context: torch.Tensor) -> torch.Tensor:
        """The outermost layers alone, around the features that were kept."""
        unet = self._unet
        times = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
        hidden = self._last.resnets[-1](torch.cat([self._deep, unet.conv_in(sample)], dim=1), times)
        if hasattr(self._last, "attentions"):
            hidden = self._last.attentions[-1](hidden, encoder_hidden_states=context, return_dict=False)[0]
        made: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return made

    def _keep(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._deep = inputs[0][:, : -self._unet.conv_in.out_channels]  # beside them is what conv_in made


def int8(unet: Any) -> Any:
    """A copy with its linear layers in 8 bits."""
    quantize: Any = torch.ao.quantization.quantize_dynamic
    return quantize(copy.deepcopy(unet), {nn.Linear}, dtype=torch.qint8)


def losses() -> dict[str, Any]:
    """Each shortcut's pictures beside the exact ones, in dB, with the embedded checkpoint in float32."""
    requests = make_requests(Options(images=IMAGES, size=SIDE), "guided", "closed")
    pipelines = {way: _pipeline(way) for way in WAYS}
    pictures = {way: [_picture(pipeline, request) for request in requests] for way, pipeline in pipelines.items()}
    values = {way: [psnr(a, b) for a, b in zip(made, pictures["exact"], strict=True)] for way, made in pictures.items()}
    return {
        way: {"worst_db": round(min(each), 1), "median_db": round(statistics.median(each), 1)}
        for way, each in values.items()
    }


def _pipeline(way: str) -> Any:
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(TINY, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if way == "int8":
        pipeline.unet = int8(pipeline.unet)
    elif way != "exact":
        pipeline.unet.forward = Reuse(pipeline.unet, int(way.removeprefix("reuse_")))
    return pipeline


def _picture(pipeline: Any, request: Img2ImgRequest) -> Pixels:
    if isinstance(pipeline.unet.forward, Reuse):
        pipeline.unet.forward.step = 0
    made = pipeline(
        request.prompt,
        image=torch.from_numpy(request.pixels / np.float32(255)).permute(2, 0, 1)[None],
        strength=request.strength,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    )
    picture: Pixels = (made.images[0] * 255).round().astype(np.uint8)
    return picture


def savings() -> dict[str, Any]:
    """Milliseconds of SD1.5's networks at `SIDE` pixels, one guided request, and what a whole image would take."""
    sides = SIDE // 8, SIDE // 8
    unet, inputs = make_unet(**UNETS["sd15"]).eval(), (torch.randn(2, 4, *sides), 500, torch.randn(2, 77, 768))
    half, eight = copy.deepcopy(unet).bfloat16(), int8(unet)
    reuse, as_half = Reuse(half, 2), (inputs[0].bfloat16(), 500, inputs[2].bfloat16())
    full_vae, small_vae = AutoencoderKL(**VAE).eval().bfloat16(), AutoencoderTiny().eval().bfloat16()
    picture, latents = torch.randn(1, 3, SIDE, SIDE).bfloat16(), inputs[0][:1].bfloat16()
    half(*as_half)
    works: dict[str, Callable[[], Any]] = {
        "unet_float32": lambda: unet(*inputs),
        "unet_bfloat16": lambda: half(*as_half),
        "unet_int8": lambda: eight(*inputs),
        "unet_bfloat16_shallow": lambda: reuse.shallow(*as_half),
        "vae_bfloat16": lambda: (full_vae.encode(picture), full_vae.decode(latents)),
        "small_vae_bfloat16": lambda: (small_vae.encode(picture), small_vae.decode(latents)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + ROUNDS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    ms = {name: round(statistics.median(each[1:]) * 1e3, 1) for name, each in seconds.items()}
    return {"ms": ms, "image": _image_times(ms)}


def _image_times(ms: dict[str, float]) -> dict[str, float]:
    """Milliseconds of an image of `STEPS` guided steps, VAE included."""
    full, shallow, vae = ms["unet_bfloat16"], ms["unet_bfloat16_shallow"], ms["vae_bfloat16"]
    deep = {every: -(-STEPS // every) for every in (2, 3)}
    image = {"exact": STEPS * full + vae, "int8": STEPS * ms["unet_int8"] + vae}
    image |= {f"reuse_{n}": full * new + shallow * (STEPS - new) + vae for n, new in deep.items()}
    image |= {"small_vae": STEPS * full + ms["small_vae_bfloat16"]}
    return {name: round(value) for name, value in image.items()}


@torch.inference_mode()
def main() -> None:
    """Print both as JSON."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    facts: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    facts |= {"machine": describe_machine().model_dump(), "load_average": os.getloadavg()[0]}
    print(json.dumps({**facts, "losses": losses(), "savings": savings()}, indent=1))


if __name__ == "__main__":
    main()
