"""Opens a checkpoint with diffusers, and refuses, with the reason, what cannot be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from safetensors import safe_open

from deployments.engine.errors import CheckpointError
from deployments.engine.models import devices
from deployments.engine.models.lora import LoraAdapters
from deployments.engine.models.samplers import PREDICTION_TYPES
from deployments.engine.models.scaled_fp16 import to_scaled_fp16

NO_LORAS: Mapping[str, str] = {}
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
ENCODER = ("encoder", "quant_conv")  # the VAE's parts before the latents
PARTS = ("vae", "unet", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint on its device: diffusers' pipeline, the dtypes of the UNet and of the VAE's halves."""

    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    vae_dtypes: devices.VaeDtypes
    adapters: LoraAdapters


def load_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    reproducible: bool = False,
    memory_efficient: bool = False,
    loras: Mapping[str, str] = NO_LORAS,
) -> Checkpoint:
    """Open a diffusers folder, a hub id or one `.safetensors` file, and the adapters `loras`, paths by name.

    Raises CheckpointError saying what is wrong.
    """
    if Path(source).suffix in PICKLES:
        raise CheckpointError(f"{source}: a pickle can run code when it is opened; convert it to .safetensors")
    _quieten()
    try:
        target = devices.choose_device(device)
        opener = _open_file if source.endswith(".safetensors") else _open
        pipeline = opener(source, revision)
    except CheckpointError:
        raise
    except Exception as exc:
        raise CheckpointError(f"{source}: {exc}") from exc
    _check(pipeline, source)
    adapters = LoraAdapters(pipeline, loras)
    prediction_type = pipeline.scheduler.config.get("prediction_type", "epsilon")
    model_dtype = devices.choose_dtype(dtype, target, prediction_type=prediction_type, reproducible=reproducible)
    # SD1's and SD2's VAEs have the flag too, by default, and diffusers heeds it only for SDXL.
    is_sdxl = isinstance(pipeline, StableDiffusionXLImg2ImgPipeline)
    overflows = is_sdxl and bool(pipeline.vae.config.force_upcast)
    vae_dtypes = devices.vae_dtypes(model_dtype, target, overflows=overflows)
    _place(pipeline, target, model_dtype, vae_dtypes, memory_efficient)
    return Checkpoint(pipeline, target, model_dtype, vae_dtypes, adapters)


def _quieten() -> None:
    """Progress bars of a load are noise in a server's log."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _open(source: str, revision: str | None) -> Any:
    """From a folder or the hub. `use_safetensors` makes diffusers refuse weights that exist only as pickles."""
    folder = Path(source)
    if not folder.exists() and (folder.is_absolute() or source.count("/") > 1):  # else it may be a hub id
        raise CheckpointError(f"{source}: no such folder")
    index = DiffusionPipeline.load_config(source, revision=revision)
    if folder.is_dir():
        _check_folder(folder, index)
    is_sdxl = "text_encoder_2" in index
    pipeline_class = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
    unneeded = {} if is_sdxl else {"safety_checker": None, "requires_safety_checker": False}
    return pipeline_class.from_pretrained(source, revision=revision, use_safetensors=True, **unneeded)


def _check_folder(folder: Path, index: dict[str, Any]) -> None:
    """Says plainly what diffusers does not: which part is missing (a tokenizer it makes up), or only a pickle."""
    for part in PARTS:
        library, *_ = index.get(part) or [None]
        if library is None:
            continue
        if not any((folder / part).glob("*")):
            raise CheckpointError(f"{folder}: the folder {part}, which model_index.json names, is missing or empty")
        suffixes = {file.suffix for file in (folder / part).iterdir()}
        if suffixes & set(PICKLES) and ".safetensors" not in suffixes:
            raise CheckpointError(f"{folder}: {part} has its weights only as a pickle; convert them to .safetensors")


def _open_file(source: str, revision: str | None) -> Any:
    """From one file in the original layout. A diffusers folder of the same name beside it (configuration and
    tokenizers; weights not needed) is used where there is one; else diffusers fetches that part from the hub."""
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with safe_open(path, framework="pt") as tensors:
        is_sdxl = any(key.startswith("conditioner.") for key in tensors.keys())  # noqa: SIM118
    pipeline_class = StableDiffusionXLImg2ImgPipeline if is_sdxl else StableDiffusionImg2ImgPipeline
    beside = path.with_suffix("")
    local = {"config": str(beside), "local_files_only": True} if beside.is_dir() else {}
    return pipeline_class.from_single_file(str(path), **local)


def _check(pipeline: Any, source: str) -> None:
    needed = ["vae", "unet", "scheduler", "tokenizer", "text_encoder"]
    if isinstance(pipeline, StableDiffusionXLImg2ImgPipeline):
        # The refiner has only the second pair.
        needed = ["vae", "unet", "scheduler", "tokenizer_2", "text_encoder_2"]
    for name in needed:
        if getattr(pipeline, name) is None:
            raise CheckpointError(f"{source}: the checkpoint has no {name}")
    takes, latents = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if takes != latents:
        kind = {
            9: "an inpainting UNet",
            8: "an instruction-editing UNet",
            5: "a depth UNet",
            7: "an upscaler",
        }
        raise CheckpointError(
            f"{source}: image-to-image needs a UNet of {latents} input channels, and this one takes {takes}: "
            f"{kind.get(takes, 'made for another task')}"
        )
    prediction_type = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise CheckpointError(f"{source}: prediction_type {prediction_type!r} is none of {', '.join(PREDICTION_TYPES)}")


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
