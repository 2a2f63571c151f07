"""The LoRAs of one checkpoint: all loaded at the start, and switched on for the requests that name them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from deployments.engine.errors import CheckpointError, InvalidRequest
from deployments.engine.request import Loras

M = TypeVar("M", bound=nn.Module)


class LoadedLoras:
    """Loads `files` (paths by name, safetensors) into the pipeline, switched off. Raises CheckpointError."""

    def __init__(self, pipeline: Any, files: Mapping[str, str]) -> None:
        self._pipeline = pipeline
        self._peft_names = {name: f"lora_{number}" for number, name in enumerate(files)}  # peft takes no dots
        self.active: Loras | None = ()  # those that are switched on; None while they are being switched
        for name, file in files.items():
            _load(pipeline, name, Path(file), self._peft_names[name])
        if files:
            pipeline.disable_lora()

    def check(self, loras: Loras) -> None:
        """Raises InvalidRequest for a LoRA that is not here."""
        for name, _ in loras:
            if name not in self._peft_names:
                known = ", ".join(self._peft_names) or "none"
                raise InvalidRequest(f"loras: no LoRA {name!r}; LoRAs: {known}", "loras")

    def use(self, loras: Loras) -> None:
        """Switch these LoRAs on, and all others off."""
        if loras == self.active:
            return
        self.active = None
        if loras:
            self._pipeline.enable_lora()
            names, weights = zip(*((self._peft_names[name], weight) for name, weight in loras), strict=True)
            self._pipeline.set_adapters(list(names), list(weights))
        else:
            self._pipeline.disable_lora()
        self.active = loras


def _load(pipeline: Any, name: str, file: Path, peft_name: str) -> None:
    if file.suffix != ".safetensors":
        raise CheckpointError(f"loras.{name}: {file}: a LoRA must be a .safetensors file")
    if not file.is_file():
        raise CheckpointError(f"loras.{name}: {file}: no such file")
    try:
        pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=peft_name, use_safetensors=True, local_files_only=True
        )
    except Exception as exc:
        raise CheckpointError(f"loras.{name}: {file}: {exc}") from exc
    if not any(peft_name in found for found in pipeline.get_list_adapters().values()):
        raise CheckpointError(f"loras.{name}: {file}: it holds no LoRA weights for this checkpoint")


def without_loras(network: M) -> M:
    """A copy that shares the weights' memory and has no LoRAs' layers.

    Switching LoRAs on the original does not reach the copy, which backends trace and capture.
    """
    tensors = chain(network.parameters(), network.buffers())
    shared: dict[int, Any] = {id(tensor): _alias(tensor) for tensor in tensors}
    bare = copy.deepcopy(network, shared)
    for module in list(bare.modules()):
        for name, child in module.named_children():
            if isinstance(child, BaseTunerLayer):
                setattr(module, name, child.get_base_layer())
    return bare


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.detach()
    return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data
