"""Items that time single networks and layers with random weights; nothing is downloaded or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.benchmark import Timer

from benchmarks.architectures import VAE, Family, unet_config
from benchmarks.backends.spec import Device
from benchmarks.gpu_round.plan import REPEATS
from benchmarks.gpu_round.run_item import Found
from benchmarks.roofline.work import FACTOR, TOKENS
from deployments.engine.models.scaled_fp16 import to_scaled_fp16

LEAST_S = 0.2  # seconds of calls in each repetition
TRIAL_CHANNELS = (32, 32, 32, 32)  # on a CPU, where the items are only tried out
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# (rows, channels, height, width): SD1.5's and SDXL's UNets at 512 and 1024 px, and their decoders' last blocks
NORM_SHAPES = [(16, 320, 64, 64), (16, 1280, 16, 16), (8, 320, 128, 128), (8, 960, 128, 128), (1, 256, 512, 512)]


@torch.inference_mode()
def norms(device: Device) -> Found:
    """Milliseconds of group norm and SiLU for each of NORM_SHAPES."""
    for rows, channels, height, width in NORM_SHAPES if device == "cuda" else [(2, 320, 8, 8)]:
        layer = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU()).to(device, _dtype(device))
        forwards: dict[str, Callable[[torch.Tensor], Any]] = {"eager": layer, "inductor": torch.compile(layer)}
        for layout, memory_format in LAYOUTS.items():
            x = torch.randn(rows, channels, height, width, device=device, dtype=_dtype(device))
            x = x.to(memory_format=memory_format)
            for name, forward in forwards.items():
                figure = f"{rows}x{channels}x{height}x{width} {name} {layout}, ms"
                yield figure, _milliseconds(lambda forward=forward, x=x: forward(x))  # type: ignore[misc]


@torch.inference_mode()
def layout(device: Device) -> Found:
    """Milliseconds of a UNet call for several numbers of rows, and of the VAE's encoder and decoder."""
    cases: list[tuple[Family, int, tuple[int, ...]]] = [("small", 128, (1,))]
    if device == "cuda":
        cases = [("sd15", 512, (2, 8, 16)), ("sdxl", 1024, (2, 8))]
    for family, size, all_rows in cases:
        unet, vae, side = _unet(family, device), _vae(device).to(_dtype(device)), size // FACTOR
        for layout_name, memory_format in LAYOUTS.items():
            unet, vae = (network.to(memory_format=memory_format) for network in (unet, vae))
            for rows in all_rows:
                call = _unet_call(unet, rows, side, memory_format)
                yield f"{family} UNet, {rows} rows, {layout_name}, ms", _milliseconds(call)
            image = torch.randn(1, 3, size, size, device=device, dtype=vae.dtype).to(memory_format=memory_format)
            latents = torch.randn(1, 4, side, side, device=device, dtype=vae.dtype).to(memory_format=memory_format)
            yield (
                f"VAE encoder, {size} px, {layout_name}, ms",
                _milliseconds(lambda vae=vae, image=image: vae.encode(image)),  # type: ignore[misc]
            )
            yield (
                f"VAE decoder, {size} px, {layout_name}, ms",
                _milliseconds(lambda vae=vae, latents=latents: vae.decode(latents)),  # type: ignore[misc]
            )


@torch.inference_mode()
def scaled_fp16(device: Device) -> Found:
    """Milliseconds of the VAE's encoder, and its relative error against float32, for each dtype."""
    torch.manual_seed(0)
    exact, narrow, scaled = (_vae(device) for _ in range(3))
    for network in (narrow, scaled):
        network.load_state_dict(exact.state_dict())
    narrow.to(torch.bfloat16)
    to_scaled_fp16(scaled)
    for size in (512, 1024) if device == "cuda" else (64,):
        image = torch.rand(1, 3, size, size, device=device) * 2 - 1
        expected = exact.encode(image).latent_dist.mean
        encoders = {"float32": (exact, image), "bfloat16": (narrow, image.bfloat16()), "scaled fp16": (scaled, image)}
        for name, (network, x) in encoders.items():
            figure = f"encoder, {size} px, {name}"
            error = (network.encode(x).latent_dist.mean.float() - expected).norm() / expected.norm()
            yield f"{figure}, relative error", (float(error),)
            call: Callable[[], Any] = lambda network=network, x=x: network.encode(x)  # type: ignore[misc]  # noqa: E731
            yield f"{figure}, ms", _milliseconds(call)


def _dtype(device: Device) -> torch.dtype:
    return torch.float16 if device == "cuda" else torch.float32


def _unet(family: Family, device: Device) -> Any:
    arguments = unet_config(family)
    if device == "cpu":
        arguments |= {"block_out_channels": TRIAL_CHANNELS, "cross_attention_dim": 32}
    with torch.device(device):
        return UNet2DConditionModel(**arguments).eval().to(_dtype(device))


def _vae(device: Device) -> Any:
    arguments = VAE | ({"block_out_channels": TRIAL_CHANNELS} if device == "cpu" else {})
    with torch.device(device):
        return AutoencoderKL(**arguments).eval()


def _unet_call(unet: Any, rows: int, side: int, memory_format: torch.memory_format) -> Callable[[], Any]:
    kind = {"device": unet.device, "dtype": unet.dtype}
    latents = torch.randn(rows, 4, side, side, **kind).to(memory_format=memory_format)
    prompts = torch.randn(rows, TOKENS, unet.config.cross_attention_dim, **kind)
    sdxl = {"text_embeds": torch.randn(rows, 1280, **kind), "time_ids": torch.ones(rows, 6, **kind)}
    return lambda: unet(latents, 500, prompts, added_cond_kwargs=sdxl)


def _milliseconds(work: Callable[[], Any]) -> tuple[float, ...]:
    """The median call of each repetition; on CUDA the timer waits for the device. The first call warms up."""
    work()
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return tuple(1000 * timer.blocked_autorange(min_run_time=LEAST_S).median for _ in range(REPEATS))
