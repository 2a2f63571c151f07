"""The networks compiled by OpenVINO, whose convolutions and fused layers are ahead of torch's on CPUs.

Each compiled network takes every picture size, so nothing is compiled while a request waits. Rows run one by one. Those
of a small UNet do so two at a time, on half of the cores each, since its layers are too short to share: two rows of
data/models/tiny-sd15 at 256 px take 67 ms that way and 82 on all of two cores. One that is left over has all cores: 41
ms, and 69 on one. SD1.5's two rows take as long either way.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openvino
import torch
from platformdirs import user_cache_path
from torch import nn

from deployments.engine.devices import VaeDtypes
from deployments.engine.loading import Checkpoint
from deployments.engine.networks import Networks, VaeNetworks, eager_vae

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
SMALL_BYTES = 256 * 1024**2  # of a network's weights
SIDES = 9, 11  # of the latents to trace with: odd, so that upsampling goes by sizes and not by factors
TOKENS = 77
ANY = -1


def compile_with_openvino(checkpoint: Checkpoint, before: Networks) -> Networks:
    """The checkpoint's networks without adapters. Takes seconds, and for small networks only the first time.

    A large VAE stays as it was `before` if that is NNPACK's form, which is ahead of this one's.
    """
    unet, vae = checkpoint.unet, checkpoint.pipeline.vae
    latents = torch.zeros(2, unet.unet.config.in_channels, *SIDES)
    times, context = torch.zeros(2, unet.times_width), torch.zeros(2, TOKENS, unet.context_width)
    shapes = [_any(latents), (ANY, unet.times_width), (ANY, ANY, unet.context_width)]
    network = _Float32(unet, unet.forward, checkpoint.dtype)
    compiled = _compile(network, (latents, times, context), shapes, _streams(unet))
    stays = before.form == "nnpack" and not _is_small(vae)
    return Networks("openvino", compiled, before.vae if stays else _compile_vae(vae, latents, checkpoint.vae_dtypes))


def _compile_vae(vae: Any, latents: torch.Tensor, dtypes: VaeDtypes) -> VaeNetworks:
    forms, pixels = eager_vae(vae), torch.zeros(2, 3, 64, 128)
    return VaeNetworks(
        _compile(_Float32(vae, forms.encode, dtypes.encoder), (pixels,), [_any(pixels)]),
        _compile(_Float32(vae, forms.decode, dtypes.decoder), (latents,), [_any(latents)]),
    )


def _any(pictures: torch.Tensor) -> tuple[int, ...]:
    """The shape of any number of such pictures, of any size."""
    return ANY, pictures.shape[1], ANY, ANY


def _streams(unet: nn.Module) -> int:
    return 2 if _is_small(unet) else 1  # as many as a guided request has rows, and one may be left over


def _is_small(network: nn.Module) -> bool:
    return bool(sum(tensor.nbytes for tensor in network.state_dict().values()) <= SMALL_BYTES)


class _Float32(nn.Module):
    """A network with float32 in and out, whatever it computes in: numpy, on the way to OpenVINO, has no bfloat16."""

    def __init__(self, network: nn.Module, function: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.function, self.dtype = network, function, dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*(tensor.to(self.dtype) for tensor in inputs)).float()


def _compile(
    network: _Float32, example: tuple[torch.Tensor, ...], shapes: list[tuple[int, ...]], streams: int = 1
) -> Callable[..., torch.Tensor]:
    model = _converted(network, example)
    model.reshape({i: openvino.PartialShape(list(shape)) for i, shape in enumerate(shapes)})
    together = _requests(model, network.dtype, streams)
    alone = together if streams == 1 else _requests(model, network.dtype, 1)

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        arrays = [tensor.float().contiguous().numpy() for tensor in inputs]
        outputs, rows = [], len(arrays[0])
        for first in range(0, rows, streams):
            requests = together if first + streams <= rows else alone
            for row, request in enumerate(requests, first):
                request.start_async([array[row : row + 1] for array in arrays], share_inputs=True)
            for request in requests:
                request.wait()
                outputs.append(torch.from_numpy(request.get_output_tensor().data.copy()))
        return torch.cat(outputs)

    return forward


def _requests(model: Any, dtype: torch.dtype, streams: int) -> list[Any]:
    """What runs so many rows at the same time, on its part of the cores each."""
    options = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": streams,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return [compiled.create_infer_request() for _ in range(streams)]


def _converted(network: _Float32, example: tuple[torch.Tensor, ...]) -> Any:
    """The network as OpenVINO's; small ones are kept, since converting takes longer than compiling them.

    What is kept is used at once too: OpenVINO rounds a network that it read from a file otherwise than one converted.
    """
    if not _is_small(network):  # it would be on disk a second time
        return _convert(network, example)
    kept = user_cache_path("img2img-serve") / "openvino" / f"{_fingerprint(network, example)}.xml"
    if not kept.exists():
        model = _convert(network, example)
        try:
            _keep(model, kept)
        except OSError:  # a disk that is full or read-only costs every start some seconds
            return model
    return openvino.Core().read_model(kept)


def _convert(network: _Float32, example: tuple[torch.Tensor, ...]) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that branches on sizes are fixed: the examples choose well
        # OpenVINO would trace it too, and then once more to compare, which takes a third of the time.
        traced = torch.jit.trace(network, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, example_input=example)


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
