"""The layers of the folder job, read from the import statements, those for type checkers too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each package of batch/ and the packages of batch/ that it may import.
PACKAGES = {
    "storage": set[str](),
    "record": {"storage"},
    "planning": {"record", "storage"},
    "report": {"record", "storage"},
    "running": {"planning", "record", "report", "storage"},
}
# What batch/ may import of deployments/: the settings and their words, the image code, and what a handle needs.
DEPLOYMENTS = {"allowed_values", "config", "errors", "routing", "schemas", "service"}
DEPLOYMENTS |= {"engine.errors", "engine.request", "handles", "images", "ray_private"}


def imports_of(file: Path) -> Iterator[str]:
    """Every module that the file imports, and every name that it imports from one."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(file: Path) -> str:
    """The package of batch/ that holds the file; "" for the modules on top."""
    return file.relative_to(ROOT / "batch").parent.as_posix().removeprefix(".")


FILES = {file: set(imports_of(file)) for file in (ROOT / "batch").rglob("*.py")}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_the_packages_below_it(package: str):
    imports = {name for file, names in FILES.items() if package_of(file) == package for name in names}
    imported = {name.split(".")[1] for name in imports if name.startswith("batch.")}
    assert imported & PACKAGES.keys() - {package} <= PACKAGES[package]


def test_every_package_has_a_place_and_none_imports_its_importers():
    assert {package_of(file) for file in FILES} == {"", *PACKAGES}
    assert list(TopologicalSorter(PACKAGES).static_order())[0] == "storage"


def test_commands_are_imported_by_nobody():
    imports = set[str]().union(*FILES.values())
    assert not [name for name in imports if name.startswith(("batch.run_folder", "batch.run_image", "batch.show"))]


def test_folder_job_reaches_the_app_by_its_handle_and_not_by_its_http_api():
    deployments = {name for names in FILES.values() for name in names if name.startswith("deployments.")}
    allowed = tuple(f"deployments.{name}." for name in sorted(DEPLOYMENTS))
    assert {name for name in deployments if not name.startswith(allowed)} == set()
