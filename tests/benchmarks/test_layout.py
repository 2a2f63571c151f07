"""What the benchmarks know of the engine, and the length of their modules."""

from __future__ import annotations

from tests.support.imports import imports_of, modules_of

MOST_LINES = 250
ENGINE_INSIDE = ("deployments.engine.engine", "deployments.engine.runner", "deployments.engine.accel")
BENCHMARKS = modules_of("benchmarks")


def test_one_module_of_the_benchmarks_knows_the_inside_of_the_engine() -> None:
    knowing = [
        file.name for file in BENCHMARKS.values() if any(name.startswith(ENGINE_INSIDE) for name in imports_of(file))
    ]
    assert knowing == ["engine_backend.py"]


def test_modules_stay_short() -> None:
    assert [file.name for file in BENCHMARKS.values() if len(file.read_text().splitlines()) > MOST_LINES] == []
