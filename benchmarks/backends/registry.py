"""Which code runs which backend."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.backends.engine_backend import EngineBackend
from benchmarks.backends.in_process import Batch, OneByOne, RequestBackend
from benchmarks.backends.pipelines import BestPipeline, Pipeline, StockPipeline
from benchmarks.backends.spec import Backend, BackendSpec

# Packages that backends need beside the extra `bench`: module and package. The extra `competitors` has them all.
PACKAGES: dict[Backend, tuple[str, str]] = {
    "openvino": ("openvino_genai", "openvino-genai"),
    "openvino_bf16": ("openvino_genai", "openvino-genai"),
    "sdcpp": ("stable_diffusion_cpp", "stable-diffusion-cpp-python"),
}


class PackageMissing(Exception):
    """A backend needs a package that is not installed; the message names both."""


def check_installed(backends: Sequence[Backend]) -> None:
    """Raise PackageMissing for the first backend that cannot run here."""
    for backend in backends:
        module, package = PACKAGES.get(backend, ("torch", "torch"))
        if find_spec(module) is None:
            raise PackageMissing(f"{backend} needs {package}: pip install {package}, or -e '.[competitors]' for all")


def backend_for(spec: BackendSpec) -> RequestBackend:
    """The backend, not open yet. Ray is imported only for backends that run on it."""
    match spec.backend:
        case "engine":
            return EngineBackend(spec)
        case "service" | "service_fast":
            from benchmarks.backends.service import Service

            return Service(spec)
        case "batch" | "diffusers_best":
            return Batch(lambda: open_pipeline(spec), spec.batch_size)
        case _:
            return OneByOne(lambda: open_pipeline(spec))


def open_pipeline(spec: BackendSpec) -> Pipeline:
    """The pipeline of a backend that calls one. Seldom installed packages are imported here only."""
    match spec.backend:
        case "diffusers_best":
            return BestPipeline(spec.checkpoint, spec.device, spec.dtype)
        case "openvino" | "openvino_bf16":
            from benchmarks.backends.openvino_genai_pipeline import OpenVinoPipeline

            dtype = "float32" if spec.backend == "openvino" else "bfloat16"
            return OpenVinoPipeline(spec.checkpoint, Path(spec.cache_dir), dtype)
        case "sdcpp":
            from benchmarks.backends.sdcpp_pipeline import SdCppPipeline

            return SdCppPipeline(spec.checkpoint, Path(spec.cache_dir))
        case _:
            return StockPipeline(spec.checkpoint, spec.device)
