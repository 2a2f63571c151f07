"""The layers of docs/architecture.md, read from the import statements: arrows point down only."""

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
PACKAGES = ("deployments", "batch")
ENGINE = "deployments.engine."


def imports_of(tree: ast.AST) -> Iterator[str]:
    """What runs when the module is loaded or called: every import but those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports_of(node)


@cache
def graph() -> dict[str, set[str]]:
    """Each module of ours and all that it imports, by full name."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): set(imports_of(ast.parse(file.read_text("utf-8"))))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py"
    }


def importers(of: str) -> set[str]:
    return {module for module, imports in graph().items() if any(f"{name}.".startswith(of + ".") for name in imports)}


def reach(module: str) -> set[str]:
    """Our modules that loading `module` loads, itself included."""
    modules, seen, todo = graph(), set[str](), [module]
    while todo:
        seen.add(current := todo.pop())
        todo += (modules[current] & modules.keys()) - seen
    return seen


def test_no_module_imports_its_importers() -> None:
    modules = graph()
    order = list(
        TopologicalSorter({name: imports & modules.keys() for name, imports in modules.items()}).static_order()
    )
    assert order.index("deployments.engine.request") < order.index("deployments.engine.engine")
    assert order.index("deployments.engine.engine") < order.index("deployments.app")


@pytest.mark.parametrize("module", [name for name in graph() if name.startswith(ENGINE)])
def test_engine_knows_nothing_above_it(module: str) -> None:
    outside = {name for name in graph()[module] if name.partition(".")[0] in ("ray", "fastapi", "starlette", *PACKAGES)}
    assert {name for name in outside if not name.startswith(ENGINE.rstrip("."))} == set()


def test_only_the_async_engine_knows_asyncio() -> None:
    assert {name for name in importers("asyncio") if name.startswith(ENGINE)} == {ENGINE + "async_engine"}


def test_decisions_are_made_without_torch() -> None:
    without = {ENGINE + name for name in ("scheduler", "state", "request", "errors", "engine", "async_engine")}
    assert importers("torch") & without == set()
    assert ENGINE + "runner" in importers("torch")


def test_router_and_model_meet_only_where_the_app_is_bound() -> None:
    assert importers("deployments.router") & importers("deployments.model") == {"deployments.app"}
    assert "deployments.model" not in reach("deployments.router")
    assert "deployments.router" not in reach("deployments.model")


@pytest.mark.parametrize("module", ["deployments.router", *(name for name in graph() if name.startswith("batch."))])
def test_only_the_model_loads_the_engine_itself(module: str) -> None:
    loaded = {name for name in reach(module) if name.startswith(ENGINE)}
    assert loaded <= {ENGINE + "request", ENGINE + "errors"}


def test_deployments_know_nothing_of_the_folder_job() -> None:
    assert {name for name in importers("batch") if not name.startswith("batch.")} == set()


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output))


@pytest.mark.subprocess
def test_engine_loads_no_framework_in_a_fresh_interpreter() -> None:
    loaded = loaded_by("deployments.engine.engine", "deployments.engine.runner")
    assert loaded & {"ray", "fastapi", "starlette", "deployments.engine.async_engine"} == set()
    ours = {name for name in loaded if name.startswith("deployments.") and not name.startswith(ENGINE)}
    assert ours == {"deployments.engine"}


@pytest.mark.subprocess
def test_the_app_is_bound_without_loading_what_only_its_replicas_need() -> None:
    loaded = loaded_by("deployments.app")
    assert "deployments.model" in loaded
    assert loaded & {"torch", "diffusers", "transformers"} == set()
