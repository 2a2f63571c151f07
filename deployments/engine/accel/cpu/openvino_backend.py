"""The networks compiled by OpenVINO, whose convolutions and fused layers are faster than torch's on CPUs.

Each compiled network takes every image size, so nothing is compiled while a request waits. Two rows run at a time, on
half of the cores each: the threads of one network wait for each other at each layer, and so for everything else that
uses one of their cores. Only an odd last row has all cores.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openvino
import torch
from platformdirs import user_cache_path
from torch import nn

from deployments.engine.accel.cpu.norms import use_nhwc_norms
from deployments.engine.accel.cpu.upsampling import fuse_upsampling
from deployments.engine.models.lora import without_loras
from deployments.engine.models.vae import vae_decoder, vae_encoder
from deployments.engine.networks import Backend, CompilableFamily, Denoiser, TensorFunction

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
SMALL_BYTES = 256 * 1024**2  # of a network's weights
MAX_CACHED = 24  # networks on disk; a checkpoint has three
ENGINE = Path(__file__).parents[2]
SIDES = 9, 17  # of the traced latents: odd at each level, so that upsampling is traced by sizes and not by factors
CACHED_LAYERS = 256  # that are kept for other shapes, by each network: with 5000, the default, memory grows for hours
ANY = -1
_Model = tuple[Any, nn.Module | None]  # OpenVINO's, and the weights that it reads in place: it does not keep all alive


def openvino_backend(family: CompilableFamily) -> Backend:
    """The networks without LoRAs. Compiling takes seconds, for small networks only the first time.

    A reproducible family has one compiled network, since a second one may round otherwise: rows take turns.
    """
    in_parallel = not family.reproducible and torch.get_num_threads() > 1
    encode, decode = _compiled_vae(family)
    return Backend("openvino", _compiled_denoiser(family, in_parallel=in_parallel), encode, decode, owns_threads=True)


def _compiled_denoiser(family: CompilableFamily, *, in_parallel: bool) -> Denoiser:
    network = without_loras(family.network)
    fuse_upsampling(network)
    use_nhwc_norms(network)
    example = tuple(tensor.float() for tensor in family.example_inputs(1, SIDES))
    model = _cached_model(_Float32(network, network.forward, family.dtype), example)
    shapes = [_any_size(tensor) for tensor in example]
    single = _Compiled(model, shapes, family.dtype, streams=1)
    double = _Compiled(model, shapes, family.dtype, streams=2) if in_parallel else single

    def denoise(latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        rows = list(zip(*(torch.split(tensor, 1) for tensor in (latents, *inputs)), strict=True))
        even = len(rows) - len(rows) % double.streams
        return torch.cat(double(rows[:even]) + single(rows[even:]))

    return denoise


def _compiled_vae(family: CompilableFamily) -> tuple[TensorFunction, TensorFunction]:
    vae, (encoder_dtype, decoder_dtype) = without_loras(family.vae), family.vae_dtypes
    fuse_upsampling(vae)
    use_nhwc_norms(vae)
    pixels, (latents, *_) = torch.zeros(1, 3, 64, 128), family.example_inputs(1, SIDES)
    encoder = _cached_model(_Float32(vae, vae_encoder(vae), encoder_dtype), (pixels,))
    decoder = _cached_model(_Float32(vae, vae_decoder(vae), decoder_dtype), (latents,))
    encode = _Compiled(encoder, [_any_size(pixels)], encoder_dtype)
    decode = _Compiled(decoder, [_any_size(latents)], decoder_dtype)
    return (
        lambda pixels: torch.cat(encode([(image,) for image in torch.split(pixels, 1)])),
        lambda latents: torch.cat(decode([(row,) for row in torch.split(latents, 1)])),
    )


def _any_size(example: torch.Tensor) -> tuple[int, ...]:
    """The shape of one row like the example: images (1, channels, h, w) of any size, any number of tokens."""
    rows, *shape = example.shape
    return {2: (rows, *shape), 3: (rows, ANY, *shape[1:]), 4: (rows, shape[0], ANY, ANY)}[example.ndim]


class _Float32(nn.Module):
    """A network with float32 in and out, whatever dtype it computes in: numpy arrays have no bfloat16."""

    def __init__(self, network: nn.Module, function: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.function, self.dtype = network, function, dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*(tensor.to(self.dtype) for tensor in inputs)).float()


class _Compiled:
    """Runs a network for rows of inputs with these `shapes`, `streams` rows at a time."""

    def __init__(self, network: _Model, shapes: list[tuple[int, ...]], dtype: torch.dtype, streams: int = 1) -> None:
        model, self._weights = network
        model.reshape({i: openvino.PartialShape(list(shape)) for i, shape in enumerate(shapes)})
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": streams,
            "CPU_RUNTIME_CACHE_CAPACITY": CACHED_LAYERS,
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self.streams = streams
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def __call__(self, rows: Sequence[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        for first in range(0, len(rows), self.streams):
            together = zip(self._requests, rows[first:], strict=False)
            for request, _ in [(request, _start(request, row)) for request, row in together]:
                request.wait()
                outputs.append(torch.from_numpy(request.get_output_tensor().data.copy()))
        return outputs


def _start(request: Any, inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    """Start the network. The result is what it reads, which must live until it is done."""
    arrays = [tensor.float().contiguous().numpy() for tensor in inputs]
    for i, array in enumerate(arrays):  # one by one: OpenVINO's call for all of them takes three times as long
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))
    request.start_async()
    return arrays


def _cached_model(network: _Float32, example: tuple[torch.Tensor, ...]) -> _Model:
    """Small networks are cached on disk, since converting them takes longer than compiling them.

    The cached file is used at once too: OpenVINO rounds a network read from a file otherwise than a converted one.
    """
    if sum(tensor.nbytes for tensor in network.state_dict().values()) > SMALL_BYTES:  # on disk a second time
        return _convert_model(network, example)
    cached = user_cache_path("img2img-serve") / "openvino" / f"{_fingerprint(network, example)}.xml"
    try:
        if not cached.exists():
            _save(_convert_model(network, example)[0], cached)
            _evict(cached.parent)
        os.utime(cached)
        return openvino.Core().read_model(cached), None
    except OSError:  # a disk that is full or read-only costs every start some seconds
        with TemporaryDirectory() as folder:
            _save(_convert_model(network, example)[0], Path(folder) / cached.name)
            return openvino.Core().read_model(Path(folder) / cached.name), None


def _evict(folder: Path) -> None:
    """Keep the models that were used last."""
    for model in sorted(folder.glob("*.xml"), key=os.path.getmtime)[:-MAX_CACHED]:
        for suffix in (".xml", ".bin"):
            model.with_suffix(suffix).unlink(missing_ok=True)


def _convert_model(network: _Float32, example: tuple[torch.Tensor, ...]) -> _Model:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # branches on sizes are fixed by the trace; the examples choose them well
        # OpenVINO would trace it too, and then once more to compare, which takes a third of the time.
        traced = torch.jit.trace(network, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, example_input=example), traced


def _fingerprint(network: _Float32, example: tuple[torch.Tensor, ...]) -> str:
    """A digest of all that decides the result of a conversion, the engine's own code included."""
    versions = [version(package) for package in ("openvino", "torch", "diffusers")]
    function = getattr(network.function, "__qualname__", "forward")
    configs = [module.config for module in network.modules() if hasattr(module, "config")]
    parts = [*versions, function, network.dtype, [tuple(tensor.shape) for tensor in example], network.network, configs]
    digest = hashlib.sha256(repr(parts).encode())
    for file in sorted(ENGINE.rglob("*.py")):
        digest.update(file.read_bytes())
    for name, tensor in sorted(network.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _save(model: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        written = Path(folder) / target.name
        openvino.save_model(model, written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the weights first: an .xml is never there alone
            os.replace(written.with_suffix(suffix), target.with_suffix(suffix))
