"""The arrows of docs/architecture.md, read from the import statements, those for type checkers included."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("deployments", "batch")
OTHERS = ("benchmarks", "training", "scripts", "tests")
ENGINE = "deployments.engine"

# What each module of the core may import of the engine.
CORE: dict[str, set[str]] = {
    "request": set(),
    "errors": set(),
    "sampling": set(),
    "step_times": set(),
    "transfers": set(),
    "state": {"request", "sampling"},
    "scheduler": {"state", "step_times"},
    "networks": {"request", "sampling", "state"},
    "runner": {"errors", "networks", "request", "sampling", "state", "transfers"},
    "engine": {"errors", "request", "scheduler", "state"},
    "async_engine": {"engine", "errors", "request", "state"},
}
CORE_TYPES = {"errors", "networks", "request", "sampling", "state", "transfers"}

# What the packages above the engine may import of deployments, beside themselves.
ENGINE_WORDS = {f"{ENGINE}.errors", f"{ENGINE}.request"}


@cache
def graph() -> dict[str, set[str]]:
    """Each module of the product and all that it imports, by full name; a package's name stands for its __init__."""
    return {
        _name(file): set(_imports(ast.parse(file.read_text("utf-8"))))
        for package in PRODUCT
        for file in (ROOT / package).rglob("*.py")
    }


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(package: str) -> list[str]:
    """The modules of a package, itself included."""
    return [name for name in graph() if f"{name}.".startswith(package + ".")]


def imported(module: str) -> set[str]:
    """The modules of the product that a module imports; not a package where one of its modules is meant."""
    names = graph()[module] & graph().keys()
    return {name for name in names if not any(other.startswith(name + ".") for other in names)}


def importers(of: str) -> set[str]:
    return {module for module, imports in graph().items() if any(f"{name}.".startswith(of + ".") for name in imports)}


def reach(module: str) -> set[str]:
    """The modules of the product that loading `module` loads, itself included."""
    seen, todo = set[str](), [module]
    while todo:
        seen.add(current := todo.pop())
        todo += imported(current) - seen
    return seen


def test_imports_have_no_circle() -> None:
    order = list(TopologicalSorter({name: imported(name) - {name} for name in graph()}).static_order())
    assert order.index(f"{ENGINE}.request") < order.index(f"{ENGINE}.engine") < order.index("deployments.app")


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_imports_what_the_image_shows(module: str) -> None:
    assert imported(f"{ENGINE}.{module}") <= {f"{ENGINE}.{name}" for name in CORE[module]}


def test_the_image_shows_every_core_module() -> None:
    files = {file.stem for file in (ROOT / "deployments" / "engine").glob("*.py")}
    assert files == {*CORE, "__init__"}


@pytest.mark.parametrize("module", inside(f"{ENGINE}.models"))
def test_models_import_core_types_only(module: str) -> None:
    others = imported(module) - set(inside(f"{ENGINE}.models"))
    assert others <= {f"{ENGINE}.{name}" for name in CORE_TYPES}


@pytest.mark.parametrize("module", inside(f"{ENGINE}.accel"))
def test_accelerators_know_no_family(module: str) -> None:
    others = imported(module) - set(inside(f"{ENGINE}.accel"))
    assert others <= {f"{ENGINE}.{name}" for name in ("models.lora", "models.vae", "networks", "transfers")}


def test_only_the_build_sees_models_and_accelerators() -> None:
    within = {*inside(f"{ENGINE}.models"), *inside(f"{ENGINE}.accel")}
    assert importers(f"{ENGINE}.models") - within == {"deployments.replica.build"}
    assert importers(f"{ENGINE}.accel") - within == {"deployments.replica.build"}


@pytest.mark.parametrize("module", inside(ENGINE))
def test_engine_knows_no_framework_and_nothing_above_it(module: str) -> None:
    outside = {name for name in graph()[module] if name.partition(".")[0] in ("ray", "fastapi", "starlette", *PRODUCT)}
    assert {name for name in outside if not name.startswith(ENGINE)} == set()


def test_only_the_async_engine_knows_asyncio() -> None:
    assert importers("asyncio") & set(inside(ENGINE)) == {f"{ENGINE}.async_engine"}


@pytest.mark.subprocess
def test_decisions_are_made_without_torch() -> None:
    loaded = loaded_by(*(f"{ENGINE}.{name}" for name in ("scheduler", "state", "request", "engine", "async_engine")))
    assert "torch" not in loaded
    assert f"{ENGINE}.scheduler" in loaded


def test_router_and_model_meet_only_where_the_app_is_bound() -> None:
    assert importers("deployments.router") & importers("deployments.model") == {"deployments.app"}
    assert "deployments.model" not in reach("deployments.router")
    assert "deployments.router" not in reach("deployments.model")


@pytest.mark.parametrize("module", ["deployments.router", *inside("batch")])
def test_only_a_models_replica_loads_the_engine(module: str) -> None:
    loaded = {name for name in reach(module) if name.startswith(ENGINE)}
    assert loaded <= {ENGINE, *ENGINE_WORDS}


@pytest.mark.parametrize("module", inside("deployments.images"))
def test_images_know_no_service(module: str) -> None:
    allowed = {*inside("deployments.images"), *ENGINE_WORDS, "deployments.config", "deployments.schemas"}
    assert imported(module) <= allowed


def test_the_service_knows_no_http() -> None:
    assert {name for name in reach("deployments.service") if name in inside("deployments.api")} == set()
    assert importers("fastapi") | importers("starlette") <= {*inside("deployments.api"), "deployments.router"}


@pytest.mark.parametrize("module", inside("batch"))
def test_the_folder_job_knows_no_http_api(module: str) -> None:
    assert {name for name in reach(module) if name in inside("deployments.api")} == set()


def test_deployments_know_nothing_of_the_folder_job() -> None:
    assert importers("batch") <= set(inside("batch"))


@pytest.mark.parametrize("package", OTHERS)
def test_the_product_imports_none_of_what_surrounds_it(package: str) -> None:
    assert importers(package) == set()


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output))


@pytest.mark.subprocess
@pytest.mark.subprocess
def test_engine_loads_no_framework_in_a_fresh_interpreter() -> None:
    loaded = loaded_by(f"{ENGINE}.engine", f"{ENGINE}.runner")
    assert loaded & {"ray", "fastapi", "starlette", "diffusers", f"{ENGINE}.async_engine"} == set()
    assert {name for name in loaded if name.startswith("deployments.") and not name.startswith(ENGINE)} == set()


@pytest.mark.subprocess
@pytest.mark.subprocess
def test_the_app_is_bound_without_loading_what_only_its_replicas_need() -> None:
    loaded = loaded_by("deployments.app")
    assert "deployments.model" in loaded
    assert loaded & {"torch", "diffusers", "transformers"} == set()
