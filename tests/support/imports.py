"""The import statements of the repository's modules, those for type checkers included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from deployments.config import REPO_ROOT


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Every module that a file imports and, as `module.name`, every name that it imports from one."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def modules_of(*packages: str) -> dict[str, Path]:
    """The files of packages of the repository by full module name; a package's name stands for its __init__."""
    return {_name(file): file for package in packages for file in sorted((REPO_ROOT / package).rglob("*.py"))}


def _name(file: Path) -> str:
    parts = file.relative_to(REPO_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
