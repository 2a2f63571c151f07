"""What the benchmarks know of the engine, and the length of their modules."""

from __future__ import annotations

from pathlib import Path

from tests.support.imports import imports_of, modules_of

MOST_LINES = 250
OUTSIDE = tuple(f"deployments.engine.{name}" for name in ("async_engine", "errors", "models.devices", "request"))
ENGINE = modules_of("deployments/engine")
BENCHMARKS = modules_of("benchmarks")


def inside(file: Path) -> list[str]:
    """The modules of the engine that a file imports, beside those that anybody may use."""
    return [name for name in imports_of(file) if name in ENGINE and name not in OUTSIDE]


def test_one_module_of_the_benchmarks_looks_into_the_engine_and_one_times_a_network_of_it() -> None:
    knowing = {file.name: inside(file) for file in BENCHMARKS.values() if inside(file)}
    assert set(knowing) == {"engine_backend.py", "layers.py"}
    assert knowing["layers.py"] == ["deployments.engine.models.scaled_fp16"]


def test_modules_stay_short() -> None:
    assert [file.name for file in BENCHMARKS.values() if len(file.read_text().splitlines()) > MOST_LINES] == []
