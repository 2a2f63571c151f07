"""The arrows between the benchmarks, training and the product."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.config import REPO_ROOT

MOST_LINES = 250
ENGINE_INSIDE = ("deployments.engine.engine", "deployments.engine.runner", "deployments.engine.accel")


def modules(package: str) -> list[Path]:
    return sorted((REPO_ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("package", ["training", "deployments", "batch"])
def test_nothing_below_imports_the_benchmarks(package: str) -> None:
    assert [
        file.name for file in modules(package) if any(name.startswith("benchmarks") for name in imports(file))
    ] == []


def test_one_module_of_the_benchmarks_knows_the_inside_of_the_engine() -> None:
    knowing = [file.name for file in modules("benchmarks") if any(n.startswith(ENGINE_INSIDE) for n in imports(file))]
    assert knowing == ["engine_backend.py"]


def test_modules_stay_short() -> None:
    assert [file.name for file in modules("benchmarks") if len(file.read_text().splitlines()) > MOST_LINES] == []
