"""Opens a checkpoint with diffusers, and refuses, with the reason, what cannot be served."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import safe_open

from deployments.engine.errors import CheckpointError
from deployments.engine.models import devices
from deployments.engine.models.lora import LoadedLoras
from deployments.engine.models.scaled_fp16 import to_scaled_fp16

PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
# Empty tensors by which trainers tell what a single file's other tensors do not.
MARKERS: dict[str, dict[str, Any]] = {
    "v_pred": {"prediction_type": "v_prediction"},
    "ztsnr": {"rescale_betas_zero_snr": True},
}
ENCODER = ("encoder", "quant_conv")  # the VAE's parts before the latents


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointKind:
    """How the checkpoints of one family are opened, by diffusers' `pipeline_class`.

    A folder's index names a pipeline class that begins with `class_name`, a regular expression. In a single file some
    weights' names begin with `file_prefix`. The parts `needed` must be there. `unneeded` are options that keep
    diffusers from opening more. `check` raises CheckpointError for an opened pipeline that cannot be served.
    `overflows` says whether its denoiser and its VAE exceed float16's range.
    """

    pipeline_class: Any
    class_name: str
    file_prefix: str
    needed: tuple[str, ...]
    unneeded: Mapping[str, Any]
    check: Callable[[Any], None]
    overflows: Callable[[Any], tuple[bool, bool]]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint on its device: diffusers' pipeline, the dtypes of the denoiser and of the VAE's halves."""

    kind: CheckpointKind
    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    vae_dtypes: devices.VaeDtypes
    loras: LoadedLoras


def load_checkpoint(
    source: str,
    kinds: Collection[CheckpointKind],
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    prediction: str | None = None,
    reproducible: bool = False,
    memory_efficient: bool = False,
    loras: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Open a diffusers folder, a hub id or one `.safetensors` file, and `loras`, the paths of its LoRAs by name.

    `prediction` is what its denoiser predicts, for files that do not say it. Raises CheckpointError with the reason.
    """
    diffusers.utils.logging.disable_progress_bar()  # noise in a server's log
    transformers.utils.logging.disable_progress_bar()
    try:
        target = devices.choose_device(device)
        kind, pipeline = _open(source, revision, kinds)
        if prediction is not None:
            pipeline.scheduler.register_to_config(prediction_type=prediction)
        _check(pipeline, kind)
    except Exception as exc:
        raise CheckpointError(f"{source}: {exc}") from exc
    loaded = LoadedLoras(pipeline, loras or {})
    denoiser_overflows, vae_overflows = kind.overflows(pipeline)
    model_dtype = devices.choose_dtype(dtype, target, overflows=denoiser_overflows, reproducible=reproducible)
    vae_dtypes = devices.vae_dtypes(model_dtype, target, overflows=vae_overflows)
    _place(pipeline, target, model_dtype, vae_dtypes, memory_efficient)
    return Checkpoint(kind, pipeline, target, model_dtype, vae_dtypes, loaded)


def _open(source: str, revision: str | None, kinds: Collection[CheckpointKind]) -> tuple[CheckpointKind, Any]:
    path = Path(source)
    if path.suffix in PICKLES:
        raise CheckpointError("a pickle can run code when it is opened; convert it to .safetensors")
    if path.suffix == ".safetensors":
        return _open_file(path, kinds)
    if not path.exists() and (path.is_absolute() or source.count("/") > 1):  # else it may be a hub id
        raise CheckpointError("no such folder")
    index = DiffusionPipeline.load_config(source, revision=revision)
    kind = _kind_of(index, kinds)
    if path.is_dir():
        _check_folder(path, index, kind)
    return kind, _from_pretrained(source, revision, kind)


def _from_pretrained(source: str, revision: str | None, kind: CheckpointKind) -> Any:
    """`use_safetensors` makes diffusers refuse weights that exist only as pickles."""
    open_pipeline = partial(kind.pipeline_class.from_pretrained, source, revision=revision, use_safetensors=True)
    folder = Path(source)
    try:
        return open_pipeline(variant=_variant(folder, kind), **kind.unneeded)
    except OSError:
        if not folder.is_dir():  # a repository may have no other weights than these
            with suppress(OSError):
                return open_pipeline(variant="fp16", **kind.unneeded)
        raise


def _kind_of(index: Mapping[str, Any], kinds: Collection[CheckpointKind]) -> CheckpointKind:
    name = str(index.get("_class_name"))
    for kind in kinds:
        if re.match(kind.class_name, name):
            return kind
    supported = ", ".join(kind.pipeline_class.__name__ for kind in kinds)
    raise CheckpointError(f"the pipeline class {name} is not supported; supported are those like {supported}")


def _check_folder(folder: Path, index: Mapping[str, Any], kind: CheckpointKind) -> None:
    """Says plainly what diffusers does not: which part is missing (a tokenizer it makes up), or only a pickle."""
    for part in (*kind.needed, *kind.optional):
        library, *_ = index.get(part) or [None]
        if library is None:
            continue
        suffixes = {file.suffix for file in (folder / part).glob("*")}
        if not suffixes:
            raise CheckpointError(f"the folder {part}, which model_index.json names, is missing or empty")
        if suffixes & set(PICKLES) and ".safetensors" not in suffixes:
            raise CheckpointError(f"{part} has its weights only as a pickle; convert them to .safetensors")


def _variant(folder: Path, kind: CheckpointKind) -> str | None:
    """What stands in the names of weights that have no plain file, such as fp16 in model.fp16.safetensors."""
    for part in (*kind.needed, *kind.optional):
        names = [file.name.split(".") for file in (folder / part).glob("*.safetensors")]
        if names and all(len(name) > 2 for name in names):
            return min(names)[1].partition("-")[0]  # shards are numbered behind it
    return None


def _open_file(path: Path, kinds: Collection[CheckpointKind]) -> tuple[CheckpointKind, Any]:
    """From one file in the original layout. A diffusers folder of the same name beside it (configuration and
    tokenizers; weights not needed) is used where there is one; else diffusers fetches that part from the hub."""
    if not path.is_file():
        raise CheckpointError("no such file")
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
    for kind in kinds:
        if any(name.startswith(kind.file_prefix) for name in names):
            beside = path.with_suffix("")
            local = {"config": str(beside), "local_files_only": True} if beside.is_dir() else {}
            pipeline = kind.pipeline_class.from_single_file(str(path), **local)
            for marker in MARKERS.keys() & names:
                pipeline.scheduler.register_to_config(**MARKERS[marker])
            return kind, pipeline
    prefixes = ", ".join(kind.file_prefix for kind in kinds)
    raise CheckpointError(f"its weights are of no supported family: no name begins with one of {prefixes}")


def _check(pipeline: Any, kind: CheckpointKind) -> None:
    for name in kind.needed:
        if getattr(pipeline, name) is None:
            raise CheckpointError(f"the checkpoint has no {name}")
    kind.check(pipeline)


def _place(
    pipeline: Any, device: torch.device, dtype: torch.dtype, vae_dtypes: devices.VaeDtypes, memory_efficient: bool
) -> None:
    devices.configure_backends(device)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and part is not pipeline.vae and part.dtype != dtype:
            part.to(dtype=dtype)
    for name, part in pipeline.vae.named_children():
        part.to(dtype=vae_dtypes.encoder if name in ENCODER else vae_dtypes.decoder)
    if device.type == "cuda" and vae_dtypes.encoder != dtype:
        to_scaled_fp16(pipeline.vae.encoder)
    if memory_efficient:
        devices.save_memory(pipeline, device)
    if not (memory_efficient and device.type == "cuda"):  # offloaded weights come to the device by themselves
        pipeline.to(device)
