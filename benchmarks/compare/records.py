"""What a comparison is asked for and what it gives: the shapes of the job and result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from benchmarks.backends.spec import BACKENDS, Backend, BackendSpec, ModelOptions
from benchmarks.publishing import PublishedRecord
from deployments.config import Strict

SettingsKind = Literal["uniform", "mixed", "guided", "single", "turbo"]
Mode = Literal["closed", "poisson"]
# How a record's name and its line on the page say that an option is not the default. Both always say the others that
# decide the result: arch, size, device, settings, mode, max_steps.
CHANGES = {
    "dtype": "{}",
    "reproducible": "reproducible",
    "max_rows": "{} rows",
    "clients": "{} clients",
    "batch_size": "batches of {}",
    "load": "load {:g}",
    "seed": "seed {}",
}


class Options(ModelOptions):
    """Everything that decides what is measured."""

    arch: str = "tiny"
    backends: tuple[Backend, ...] = ("script", "batch", "diffusers_best", "engine", "service")
    mode: tuple[Mode, ...] = ("closed", "poisson")
    settings: tuple[SettingsKind, ...] = ("uniform", "mixed")
    images: int = Field(16, ge=1)
    rounds: int = Field(3, ge=1)
    clients: int = Field(4, ge=1)
    load: float = Field(0.8, gt=0)
    max_steps: int = Field(30, ge=4)
    together: bool = False
    seed: int = 0

    @field_validator("backends")
    @classmethod
    def _script_comes_first(cls, backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
        if "script" not in backends:
            raise ValueError("backends must include script: its images are what the others' are checked against")
        return tuple(backend for backend in BACKENDS if backend in backends)

    @property
    def name(self) -> str:
        """The record's file name without its extension: the same workload gets the same name."""
        steps = [] if self.max_steps == self._default("max_steps") else [f"{self.max_steps}-steps"]
        changes = [text.replace(" ", "-") for text in self.changes]
        words = ("compare", Path(self.arch).name, f"{self.size}px", *changes, *steps, *self.settings, *self.mode)
        return "-".join((*words, self.device))

    @property
    def changes(self) -> list[str]:
        """The options of CHANGES that are not the default, in words."""
        return [
            text.format(getattr(self, name))
            for name, text in CHANGES.items()
            if getattr(self, name) != self._default(name)
        ]

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @property
    def command(self) -> str:
        """The command line that asks for this, without where files go."""
        words = ["python -m benchmarks.compare"]
        for name, value in self.model_dump(exclude_defaults=True, exclude_none=True).items():
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words.append("--" + name.replace("_", "-") + ("" if value is True else f" {text}"))
        return " ".join(words)

    def spec(self, backend: Backend, checkpoint: Path, cache_dir: Path) -> BackendSpec:
        """What opens a backend for this comparison."""
        model = self.model_dump(include=set(ModelOptions.model_fields))
        return BackendSpec(backend=backend, checkpoint=str(checkpoint), cache_dir=str(cache_dir), **model)


class Cell(Strict):
    """One workload to run through a backend. `arrivals` are seconds from the start; None is a closed loop.

    Cells that differ in `repeat` alone have other images and settings of the same kind.
    """

    settings: SettingsKind
    mode: Mode
    clients: int
    arrivals: tuple[float, ...] | None = None
    repeat: int = 0


class Job(Strict):
    """What one process does: open one backend and run the cells through it, in order."""

    spec: BackendSpec
    options: Options
    cells: tuple[Cell, ...]


class Measurement(Strict):
    """One cell through one backend, once. Latencies (s) are in the workload's order of requests.

    `psnr` compares each image with the script's (dB, 100 for identical ones). `model_bytes` is the peak resident
    memory of the largest process, `all_bytes` the sum over all, `gpu_bytes` what the driver has given out.
    `step_times` is the engine's own: the median seconds of a step by its rows.
    """

    backend: Backend
    settings: SettingsKind
    mode: Mode
    dtype: str
    seconds: float
    latencies: tuple[float, ...]
    psnr: tuple[float, ...] = ()
    model_bytes: int
    all_bytes: int
    gpu_bytes: int | None
    load_average: float
    step_times: dict[int, float] = {}

    @property
    def images_per_s(self) -> float:
        return len(self.latencies) / self.seconds


class Record(PublishedRecord):
    """A whole comparison.

    `rates` are the Poisson arrivals per second. `solo` is the script's latency (s) for each of those requests with
    nothing else running. `control_psnr` is the highest PSNR between the script's images of different requests: what
    a wrong image would score at best.
    """

    options: Options
    rates: dict[SettingsKind, float]
    solo: dict[SettingsKind, tuple[float, ...]] = {}
    control_psnr: float
    measurements: tuple[Measurement, ...]

    @property
    def failed(self) -> set[Backend]:
        """The backends without a measurement."""
        return set(self.options.backends) - {measurement.backend for measurement in self.measurements}
