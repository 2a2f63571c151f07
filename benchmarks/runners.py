"""Which code runs which way."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.records import Job, Way
from benchmarks.stock import BestPipeline, Pipeline, ReloadingPipeline, StockPipeline
from benchmarks.ways import Batch, EngineWay, OneByOne, WayRunner

# What the ways need beside the extra `bench`: module and package. The extra `competitors` has them all.
PACKAGES: dict[Way, tuple[str, str]] = {
    "openvino": ("openvino_genai", "openvino-genai"),
    "openvino_bf16": ("openvino_genai", "openvino-genai"),
    "sdcpp": ("stable_diffusion_cpp", "stable-diffusion-cpp-python"),
}


class PackageMissing(Exception):
    """A way needs a package that is not installed, and the message says which."""


def check_installed(ways: Sequence[Way]) -> None:
    """Raises PackageMissing for the first way that cannot run here."""
    for way in ways:
        module, package = PACKAGES.get(way, ("torch", "torch"))
        if find_spec(module) is None:
            raise PackageMissing(f"{way} needs {package}: pip install {package}, or -e '.[competitors]' for all")


def runner_for(job: Job) -> WayRunner:
    """The job's way, not open yet. Ray is imported only for those that run on it."""
    match job.way:
        case "engine":
            return EngineWay(job)
        case "service" | "service_fast" | "serve_batch":
            from benchmarks.serve_ways import ServeBatch, Service

            return ServeBatch(job) if job.way == "serve_batch" else Service(job)
        case "batch" | "diffusers_best":
            return Batch(lambda: open_pipeline(job), job.options.batch_size)
        case _:
            return OneByOne(lambda: open_pipeline(job))


def open_pipeline(job: Job) -> Pipeline:
    """The pipeline of a way that calls one. Those of packages that are seldom installed are imported here only."""
    checkpoint, device = job.checkpoint, job.options.device
    match job.way:
        case "script_reload":
            return ReloadingPipeline(checkpoint, device)
        case "diffusers_best":
            return BestPipeline(checkpoint, device, job.options.dtype)
        case "openvino" | "openvino_bf16":
            from benchmarks.openvino_pipeline import OpenVinoPipeline

            return OpenVinoPipeline(checkpoint, Path(job.cache_dir), "float32" if job.way == "openvino" else "bfloat16")
        case "sdcpp":
            from benchmarks.sdcpp_pipeline import SdCppPipeline

            return SdCppPipeline(checkpoint, Path(job.cache_dir))
        case _:
            return StockPipeline(checkpoint, device, offload=job.way == "script_offload")
