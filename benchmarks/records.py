"""What a measurement is asked for and what it gives: the shapes of the job and result files."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from deployments.config import Strict

Way = Literal[
    "script",
    "script_reload",
    "script_offload",
    "batch",
    "serve_batch",
    "diffusers_best",
    "openvino",
    "openvino_bf16",
    "sdcpp",
    "engine",
    "service",
    "service_fast",
]
SettingsKind = Literal["uniform", "mixed", "guided", "single"]
Mode = Literal["closed", "poisson"]
Device = Literal["cpu", "cuda"]

WAYS: dict[Way, str] = {
    "script": "one diffusers call per image, one after the other, model loaded once",
    "script_reload": "the script to the letter: it loads the model for every image",
    "script_offload": "`script` with attention slicing and model offload, the script's own default on CUDA",
    "batch": "one diffusers call for up to `batch_size` waiting requests of equal settings",
    "serve_batch": "a Ray Serve deployment with @serve.batch around that call, through a handle",
    "diffusers_best": "`batch` with what makes diffusers fastest: the quicker number format, channels_last, fused QKV",
    "openvino": "OpenVINO GenAI's Image2ImagePipeline in float32, one call per image, with DDIM (it has no DPM++)",
    "openvino_bf16": "the same in bfloat16",
    "sdcpp": "stable-diffusion.cpp, one call per image, with DPM-Solver++ and the same sigmas",
    "engine": "this project's engine in the same process",
    "service": "this project's whole service over HTTP, PNG in and out",
    "service_fast": "the same behind HAProxy, as `make serve-fast` runs it",
}


OURS: tuple[Way, ...] = ("engine", "service", "service_fast")
# Ways whose pictures are others': another sampler, or another draw from the VAE's posterior and another tokenizer.
OTHER_PICTURES: tuple[Way, ...] = ("openvino", "openvino_bf16", "sdcpp")


class Options(Strict):
    """Everything that decides what is measured."""

    arch: str = "tiny"
    size: int = Field(256, ge=64, multiple_of=8)
    device: Device = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    reproducible: bool = False
    max_rows: int | None = Field(None, ge=2)
    ways: tuple[Way, ...] = ("script", "batch", "serve_batch", "diffusers_best", "engine", "service")
    mode: tuple[Mode, ...] = ("closed", "poisson")
    settings: tuple[SettingsKind, ...] = ("uniform", "mixed")
    images: int = Field(16, ge=1)
    rounds: int = Field(3, ge=1)
    clients: int = Field(4, ge=1)
    batch_size: int = Field(4, ge=1)
    load: float = Field(0.8, gt=0)
    max_steps: int = Field(30, ge=4)
    together: bool = False
    seed: int = 0

    @field_validator("ways")
    @classmethod
    def _script_comes_first(cls, ways: tuple[Way, ...]) -> tuple[Way, ...]:
        if "script" not in ways:
            raise ValueError("ways must include script: the others' pictures are checked against its own")
        return tuple(way for way in WAYS if way in ways)

    @property
    def command(self) -> str:
        """The command line that asks for this, without where files go."""
        words = ["python -m benchmarks.compare"]
        for name, value in self.model_dump(exclude_defaults=True, exclude_none=True).items():
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words.append("--" + name.replace("_", "-") + ("" if value is True else f" {text}"))
        return " ".join(words)


class Cell(Strict):
    """One workload to run through a way: `arrivals` are seconds from the start, None for a closed loop."""

    settings: SettingsKind
    mode: Mode
    clients: int
    arrivals: tuple[float, ...] | None = None


class Job(Strict):
    """What one measuring process does: one way, opened once, through all cells. Exports go to `cache_dir`."""

    way: Way
    checkpoint: str
    cache_dir: str
    options: Options
    cells: tuple[Cell, ...]

    @property
    def model_args(self) -> dict[str, Any]:
        """The model as the application's configuration has it."""
        names = {"device", "dtype", "reproducible", "max_rows"}
        return {"checkpoint": self.checkpoint, **self.options.model_dump(include=names)}


class Measurement(Strict):
    """One cell through one way, once. Latencies and denoise steps are in the workload's order of requests.

    `psnr` compares each picture with the script's (dB, 100 for identical ones); `model_bytes` is the peak resident
    memory of the largest process, `all_bytes` the sum over all, `gpu_bytes` what the GPU has given out. `step_times`
    are the engine's own, for this size: the median seconds of a step by its rows.
    """

    way: Way
    settings: SettingsKind
    mode: Mode
    dtype: str
    seconds: float
    latencies: tuple[float, ...]
    denoise_steps: tuple[int, ...]
    psnr: tuple[float, ...] = ()
    model_bytes: int
    all_bytes: int
    gpu_bytes: int | None
    load_average: float
    step_times: dict[int, float] = {}

    @property
    def images_per_s(self) -> float:
        return len(self.latencies) / self.seconds


class Machine(Strict):
    """Where it was measured, and with which software."""

    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None
    versions: dict[str, str]


class Record(Strict):
    """A whole comparison. `rates` are the Poisson arrivals per second; `solo` is what each of those requests takes the
    script when nothing else runs, in seconds; `control_psnr` is the highest PSNR between the script's pictures of
    different requests: what a wrong picture would score at best."""

    date: str
    commit: str
    machine: Machine
    options: Options
    rates: dict[SettingsKind, float]
    solo: dict[SettingsKind, tuple[float, ...]] = {}
    control_psnr: float
    measurements: tuple[Measurement, ...]

    @property
    def failed(self) -> set[Way]:
        """The ways of which nothing was measured."""
        return set(self.options.ways) - {measurement.way for measurement in self.measurements}
