"""Private names of Ray's are imported by one module only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_ray_private_imports_rays_private_names() -> None:
    files = [file for package in ("deployments", "batch") for file in (ROOT / package).rglob("*.py")]
    users = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if any(name.startswith("ray.") and "._" in name for name in imported_names(file))
    }
    assert users == {"deployments/ray_private.py"}
