"""Layers that the engine puts in place of a network's own on a GPU, side by side with those: compiled and replayed.

python -m benchmarks.gpu_layers > benchmarks/results/gpu/layers.json
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.upsampling import Upsample2D
from torch import nn

from benchmarks.machine import describe_machine, git_commit
from deployments.engine.attention import relative_error
from deployments.engine.channel_norms import ChannelNorm
from deployments.engine.cuda import CudaRecorder
from deployments.engine.upsampling import PhasedUpsample
from deployments.engine.wide_attention import ProductAttention

Shape = tuple[int, int, int, int]  # rows, channels, height, width
# What SD1.5 at 512 px and SDXL at 1024 px have of each kind, in the UNet's usual step batches and for one picture.
NORMS: tuple[Shape, ...] = (
    *((rows, channels, 64, 64) for rows in (2, 8, 16, 32) for channels in (320, 640, 960)),
    *((rows, channels, 128, 128) for rows in (2, 8) for channels in (320, 640, 960)),
    *((1, channels, side, side) for side in (512, 1024) for channels in (128, 256)),
    (1, 512, 256, 256),
)
UPSAMPLES: tuple[Shape, ...] = (
    *((rows, 1280, 16, 16) for rows in (2, 8, 16, 32)),
    *((rows, 640, 64, 64) for rows in (2, 8)),
    *((1, channels, side, side) for side in (128, 256) for channels in (256, 512)),
    (1, 256, 512, 512),
)
ATTENTIONS: tuple[Shape, ...] = ((1, 512, 64, 64), (1, 512, 128, 128))


class Layer(NamedTuple):
    """Two that give the same for inputs of `shape`."""

    name: str
    usual: nn.Module
    substitute: nn.Module
    shape: Shape


@torch.inference_mode()
def main() -> None:
    """Measure every layer in float16 and print the results as JSON."""
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    recorder = CudaRecorder(torch.device("cuda"))
    facts: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    facts |= {"machine": describe_machine().model_dump()}
    found = [measure(layer, recorder) for layer in layers()]
    print(json.dumps({**facts, "layers": found}, indent=1))


def layers() -> Iterator[Layer]:
    """All of them, in float32."""
    for shape in NORMS:
        norm = nn.GroupNorm(32, shape[1])
        yield Layer("norm", nn.Sequential(norm, nn.SiLU()), nn.Sequential(ChannelNorm(norm), nn.SiLU()), shape)
    for shape in UPSAMPLES:
        upsample = Upsample2D(shape[1], use_conv=True)
        yield Layer("upsampling", upsample, PhasedUpsample(upsample.conv), shape)
    for shape in ATTENTIONS:
        width = shape[1]
        attention = Attention(width, dim_head=width, heads=1, norm_num_groups=32, residual_connection=True, bias=True)
        yield Layer("attention", attention, ProductAttention(attention), shape)


def measure(layer: Layer, recorder: CudaRecorder) -> dict[str, Any]:
    """The least of some replays of each, and how far the two are from float32."""
    torch.manual_seed(0)
    hidden = torch.randn(layer.shape, device="cuda").to(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer.usual).cuda()(hidden)
    half = hidden.half()
    ms, errors = {}, {}
    for name, module in {"usual": layer.usual, "substitute": layer.substitute}.items():
        torch._dynamo.reset()
        there: Any = copy.deepcopy(module).to("cuda", torch.float16)
        compiled = torch.compile(there.to(memory_format=torch.channels_last), dynamic=False, fullgraph=True)
        recording = recorder.record(partial(compiled, half))
        recording.replay()
        ms[name], errors[name] = round(recording.seconds * 1e3, 3), relative_error(recording.output, exact)
    ratio = round(ms["usual"] / ms["substitute"], 2)
    return {"layer": layer.name, "shape": list(layer.shape), "ms": ms, "ratio": ratio, "error": errors}


if __name__ == "__main__":
    main()
