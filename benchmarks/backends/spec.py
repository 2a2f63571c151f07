"""Which backends there are, and what opens one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deployments.config import Strict

Backend = Literal[
    "script",
    "batch",
    "diffusers_best",
    "openvino",
    "openvino_bf16",
    "sdcpp",
    "engine",
    "service",
    "service_fast",
]
Device = Literal["cpu", "cuda"]

BACKENDS: dict[Backend, str] = {
    "script": "one diffusers call per image, one after the other, model loaded once",
    "batch": "one diffusers call for up to `batch_size` waiting requests of equal settings",
    "diffusers_best": "`batch` with the faster dtype, channels_last and fused QKV; torch.compile on CUDA",
    "openvino": "OpenVINO GenAI's Image2ImagePipeline in float32, one call per image, with DDIM (it has no DPM++)",
    "openvino_bf16": "the same in bfloat16",
    "sdcpp": "stable-diffusion.cpp, one call per image, with DPM-Solver++ and the same sigmas",
    "engine": "this project's engine in the same process",
    "service": "this project's service over HTTP, PNG in and out",
    "service_fast": "the same behind HAProxy, as `make serve-fast` runs it",
}
OURS: tuple[Backend, ...] = ("engine", "service", "service_fast")
# Backends with another sampler, or another draw from the VAE's posterior and another tokenizer: their images differ.
OTHER_IMAGES: tuple[Backend, ...] = ("openvino", "openvino_bf16", "sdcpp")


class ModelOptions(Strict):
    """How a checkpoint is run. `size` is the side of the square images in pixels."""

    size: int = Field(256, ge=64, multiple_of=8)
    device: Device = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    reproducible: bool = False
    max_rows: int | None = Field(None, ge=2)
    batch_size: int = Field(4, ge=1)


class BackendSpec(ModelOptions):
    """What opens a backend. Converted checkpoints are kept in `cache_dir`."""

    backend: Backend
    checkpoint: str
    cache_dir: str

    @property
    def model_args(self) -> dict[str, Any]:
        """The model as the application's configuration has it."""
        return self.model_dump(include={"checkpoint", "device", "dtype", "reproducible", "max_rows"})
