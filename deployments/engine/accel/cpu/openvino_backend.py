"""The networks compiled by OpenVINO, whose convolutions and fused layers are ahead of torch's on CPUs.

Each compiled network takes every picture size, so nothing is compiled while a request waits. Two rows run at a time,
on half of the cores each: the threads of one network wait for each other at each layer, and so for whatever else the
machine does on one of their cores. Only a row that is left over has all cores.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import openvino
import torch
from platformdirs import user_cache_path
from torch import nn

from deployments.engine.accel.cpu.norms import normalize_channels_last
from deployments.engine.accel.cpu.upsampling import fuse_upsampling
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.devices import VaeDtypes
from deployments.engine.models.lora import without_adapters
from deployments.engine.models.unet import HoistedUnet
from deployments.engine.networks import Networks, UnetForward, VaeNetworks, eager_vae

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
SMALL_BYTES = 256 * 1024**2  # of a network's weights
SIDES = 9, 17  # of the latents to trace with: odd at each level, so that upsampling goes by sizes and not by factors
TOKENS = 77
ANY = -1
Inputs = Sequence[tuple[torch.Tensor, ...]]


def compile_with_openvino(checkpoint: Checkpoint, *, reproducible: bool = False) -> Networks:
    """The checkpoint's networks without adapters. Takes seconds, and for small networks only the first time.

    `reproducible`: one compiled network for all, since others may round otherwise, and so the requests take turns.
    """
    vae = _compile_vae(without_adapters(checkpoint.pipeline.vae), checkpoint.vae_dtypes)
    in_twos = not reproducible and torch.get_num_threads() > 1
    unet = _compile_unet(without_adapters(checkpoint.unet), checkpoint.dtype, in_twos=in_twos)
    return Networks("openvino", unet, vae, own_threads=True)


def _compile_unet(unet: HoistedUnet, dtype: torch.dtype, *, in_twos: bool) -> UnetForward:
    fuse_upsampling(unet)
    normalize_channels_last(unet)
    latents, times = torch.zeros(1, unet.unet.config.in_channels, *SIDES), torch.zeros(1, unet.times_width)
    context = torch.zeros(1, TOKENS, unet.context_width)
    converted = _converted(_Float32(unet, unet.forward, dtype), (latents, times, context))
    shapes = [(1, *_any(latents)[1:]), (1, unet.times_width), (1, ANY, unet.context_width)]
    left_over = _Compiled(converted, shapes, dtype, 1)
    in_parallel = _Compiled(converted, shapes, dtype, 2) if in_twos else left_over

    def forward(latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        rows = [(latents[i : i + 1], times[i : i + 1], context[i : i + 1]) for i in range(len(latents))]
        even = len(rows) - len(rows) % in_parallel.streams
        return torch.cat(in_parallel(rows[:even]) + left_over(rows[even:]))

    return forward


def _compile_vae(vae: Any, dtypes: VaeDtypes) -> VaeNetworks:
    fuse_upsampling(vae)
    normalize_channels_last(vae)
    forms, pixels = eager_vae(vae), torch.zeros(1, 3, 64, 128)
    latents = torch.zeros(1, vae.config.latent_channels, *SIDES)
    encoder = _converted(_Float32(vae, forms.encode, dtypes.encoder), (pixels,))
    decoder = _converted(_Float32(vae, forms.decode, dtypes.decoder), (latents,))
    encode = _Compiled(encoder, [_any(pixels)], dtypes.encoder)
    decode = _Compiled(decoder, [_any(latents)], dtypes.decoder)
    return VaeNetworks(
        lambda pictures: torch.cat(encode([(picture[None],) for picture in pictures])),
        lambda latents: torch.cat(decode([(latent[None],) for latent in latents])),
        own_threads=True,
    )


def _any(pictures: torch.Tensor) -> tuple[int, ...]:
    """The shape of any number of such pictures, of any size."""
    return ANY, pictures.shape[1], ANY, ANY


def _is_small(network: nn.Module) -> bool:
    return bool(sum(tensor.nbytes for tensor in network.state_dict().values()) <= SMALL_BYTES)


class _Float32(nn.Module):
    """A network with float32 in and out, whatever it computes in: numpy, on the way to OpenVINO, has no bfloat16."""

    def __init__(self, network: nn.Module, function: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.function, self.dtype = network, function, dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*(tensor.to(self.dtype) for tensor in inputs)).float()


class _Converted(NamedTuple):
    """OpenVINO's model, which reads torch's own `weights` where they lie and, in bfloat16, does not keep them there."""

    model: Any
    weights: nn.Module | None


class _Compiled:
    """What runs a network for each part's inputs, which have these `shapes`, `streams` at a time."""

    def __init__(
        self, converted: _Converted, shapes: list[tuple[int, ...]], dtype: torch.dtype, streams: int = 1
    ) -> None:
        model, self._weights = converted
        model.reshape({i: openvino.PartialShape(list(shape)) for i, shape in enumerate(shapes)})
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": streams,
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self.streams = streams
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def __call__(self, parts: Inputs) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        for first in range(0, len(parts), self.streams):
            together = zip(self._requests, parts[first:], strict=False)
            for request, _ in [(request, _start(request, part)) for request, part in together]:
                request.wait()
                outputs.append(torch.from_numpy(request.get_output_tensor().data.copy()))
        return outputs


def _start(request: Any, inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    """Have the network begin; gives what it reads, which must be there until it is done."""
    arrays = [tensor.float().contiguous().numpy() for tensor in inputs]
    for i, array in enumerate(arrays):  # each by itself: OpenVINO's way for all of them takes three times as long
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))
    request.start_async()
    return arrays


def _converted(network: _Float32, example: tuple[torch.Tensor, ...]) -> _Converted:
    """Small ones are kept on disk, since converting takes longer than compiling them.

    What is kept is used at once too: OpenVINO rounds a network that it read from a file otherwise than one converted.
    """
    if not _is_small(network):  # it would be on disk a second time
        return _convert(network, example)
    kept = user_cache_path("img2img-serve") / "openvino" / f"{_fingerprint(network, example)}.xml"
    if not kept.exists():
        converted = _convert(network, example)
        try:
            _keep(converted.model, kept)
        except OSError:  # a disk that is full or read-only costs every start some seconds
            return converted
    return _Converted(openvino.Core().read_model(kept), None)


def _convert(network: _Float32, example: tuple[torch.Tensor, ...]) -> _Converted:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that branches on sizes are fixed: the examples choose well
        # OpenVINO would trace it too, and then once more to compare, which takes a third of the time.
        traced = torch.jit.trace(network, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        return _Converted(openvino.convert_model(traced, example_input=example), traced)


def _fingerprint(network: _Float32, example: tuple[torch.Tensor, ...]) -> str:
    """Of all that decides what conversion gives."""
    versions = [version(package) for package in ("openvino", "torch", "diffusers")]
    function = getattr(network.function, "__qualname__", "forward")
    parts = [*versions, function, network.dtype, [tuple(tensor.shape) for tensor in example], network.network]
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in sorted(network.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _keep(model: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        written = Path(folder) / target.name
        openvino.save_model(model, written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the weights first: who sees the .xml has both
            os.replace(written.with_suffix(suffix), target.with_suffix(suffix))
