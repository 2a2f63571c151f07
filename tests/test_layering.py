"""The arrows of docs/architecture.md, read from the import statements, those for type checkers included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest

from deployments.config import REPO_ROOT
from tests.support.imports import imports_of, modules_of

PRODUCT = ("deployments", "batch")
SURROUNDINGS = ("benchmarks", "training", "scripts")
ENGINE = "deployments.engine"

REQUEST = {"engine.errors", "engine.request"}  # the engine's words, which cross process borders
SETTINGS = {"config", "schemas"}
CORE_TYPES = {*REQUEST, "engine.networks", "engine.sampling", "engine.state", "engine.transfers"}

# Every arrow between the packages of the repository: each imports these, all of them, and no other. The modules on top
# of deployments/ and batch/, and those of the engine's core, count as packages.
ALLOWED: dict[str, set[str]] = {
    "deployments": set(),
    "app": {"api", "config", "model", "router"},
    "keys": {"auth"},
    "router": {*SETTINGS, "api", "engine.request", "handles", "images", "ray_private", "service"} | {"telemetry"},
    "model": {"autoscaling", "config", "engine.async_engine", "engine.request", "handles", "images", "replica"}
    | {"telemetry"},
    # api -> service is the rule. Besides: the keys, the counts of calls, and what requests and errors are made of.
    "api": {*REQUEST, *SETTINGS, "allowed_values", "auth", "errors", "images", "routing", "service", "telemetry"},
    "service": {*SETTINGS, "engine.request", "errors", "handles", "images", "ray_private", "routing"},
    "routing": {*SETTINGS, "engine.errors", "errors"},
    "allowed_values": {"schemas"},
    "handles": {"engine.request", "ray_private"},
    "images": {*REQUEST, *SETTINGS},
    "auth": {"config"},
    "replica": {"config", "engine.accel", "engine.engine", "engine.models", "engine.networks", "engine.runner"},
    "telemetry": {"engine.request"},
    "autoscaling": set(),
    "proxy": set(),
    "ray_private": set(),
    "errors": {"engine.errors"},
    "schemas": {"config", "engine.request"},
    "config": {"engine.request"},
    "engine": set(),
    "engine.accel": {"engine.models", "engine.networks", "engine.transfers"},
    "engine.models": CORE_TYPES,
    "engine.async_engine": {*REQUEST, "engine.engine", "engine.state"},
    "engine.engine": {*REQUEST, "engine.scheduler", "engine.state"},
    "engine.runner": CORE_TYPES,
    "engine.networks": {"engine.request", "engine.sampling", "engine.state"},
    "engine.scheduler": {"engine.state", "engine.step_times"},
    "engine.state": {"engine.request", "engine.sampling"},
    "engine.step_times": set(),
    "engine.transfers": set(),
    "engine.sampling": set(),
    "engine.request": set(),
    "engine.errors": set(),
    # batch -> images, schemas, config and the router's handle is the rule. Besides: routing and allowed_values, which
    # check the settings of each image before the app runs; errors, which tell what failure to repeat; and ray_private,
    # which starts the app without a port and calls it without a proxy.
    "batch": set(),
    "batch.run_folder": {
        *SETTINGS,
        "batch.cluster",
        "batch.display",
        "batch.options",
        "batch.planning",
        "batch.program",
    }
    | {"batch.record", "batch.running", "batch.storage"},
    "batch.run_image": {"batch.cluster", "batch.options", "batch.planning", "batch.program", "batch.running"}
    | {"batch.storage", "config", "images", "routing"},
    "batch.show": {"batch.planning", "batch.program", "batch.record", "engine.request", "images", "schemas"},
    "batch.program": {"schemas"},
    "batch.options": {"allowed_values", "batch.cluster", "engine.errors", "schemas"},
    "batch.running": {*SETTINGS, "batch.display", "batch.planning", "batch.record", "batch.report", "batch.storage"}
    | {"engine.errors", "errors", "images", "ray_private"},
    "batch.cluster": {"config", "ray_private"},
    "batch.display": {"batch.record"},
    "batch.planning": {*SETTINGS, "allowed_values", "batch.record", "batch.storage", "engine.errors", "images"}
    | {"routing"},
    "batch.report": {"batch.record", "batch.storage", "engine.request", "images"},
    "batch.record": {*SETTINGS, "batch.storage", "images"},
    "batch.storage": set(),
    "benchmarks": {*SETTINGS, "api", "batch.planning", "batch.record", "batch.running", "engine.async_engine"}
    | {
        "engine.engine",
        "engine.models",
        "engine.request",
        "engine.runner",
        "handles",
        "images",
        "ray_private",
        "replica",
    }
    | {"router", "training"},
    "scripts": {"allowed_values", "api", "batch.cluster", "batch.report", "benchmarks", "config", "handles", "images"}
    | {"service", "training"},
    "training": {"engine.request"},
}


@cache
def graph() -> dict[str, frozenset[str]]:
    """Each module, and all that it imports, by full name; a package's name stands for its __init__."""
    return {module: imports_of(file) for module, file in modules_of(*PRODUCT, *SURROUNDINGS).items()}


def package_of(module: str) -> str:
    """The name of a module's package in ALLOWED."""
    if module.startswith(SURROUNDINGS):
        return module.partition(".")[0]
    parts = module.removeprefix("deployments.").split(".")
    return ".".join(parts[: 2 if parts[0] in ("engine", "batch") else 1])


def inside(package: str) -> list[str]:
    """The modules of a package, itself included."""
    return [name for name in graph() if f"{name}.".startswith(package + ".")]


def imported(module: str) -> set[str]:
    """The modules of the repository that a module imports; not a package where one of its modules is meant."""
    names = graph()[module] & graph().keys()
    return {name for name in names if not any(other.startswith(name + ".") for other in names)}


def importers(of: str) -> set[str]:
    """The modules of the product that import `of`, or a part of it."""
    product = {module: names for module, names in graph().items() if module.startswith(PRODUCT)}
    return {module for module, names in product.items() if any(f"{name}.".startswith(of + ".") for name in names)}


def reach(module: str) -> set[str]:
    """The modules of the repository that loading `module` loads, itself included."""
    seen, todo = set[str](), [module]
    while todo:
        seen.add(current := todo.pop())
        todo += imported(current) - seen
    return seen


def test_every_package_has_its_arrows() -> None:
    assert {package_of(module) for module in graph()} == ALLOWED.keys()


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_what_its_arrows_show(package: str) -> None:
    modules = [module for module in graph() if package_of(module) == package]
    assert {package_of(name) for module in modules for name in imported(module)} - {package} == ALLOWED[package]


def test_imports_have_no_circle() -> None:
    list(TopologicalSorter(ALLOWED).static_order())
    list(TopologicalSorter({name: imported(name) - {name} for name in graph()}).static_order())


def rows_of_the_architecture() -> dict[str, int]:
    """The number of the row of docs/architecture.md that names a package; the `engine/` row names the core."""
    text = (REPO_ROOT / "docs" / "architecture.md").read_text()
    folder, rows = "", dict[str, int]()
    table_rows = re.findall(r"^\|([^|]*)\|", text.partition("## The packages")[2].partition("\n## ")[0], re.MULTILINE)
    for number, row in enumerate(table_rows):
        names = re.findall(r"`([\w/.]+)`", row)
        if names in (["deployments/"], ["batch/"]):
            folder = names[0].removeprefix("deployments/").replace("/", ".")
            continue
        for name in names:
            rows[folder + name.removesuffix(".py").rstrip("/").replace("/", ".")] = number
    return rows


def test_arrows_point_down_the_tables_of_the_architecture() -> None:
    rows = rows_of_the_architecture()
    core = {package for package in ALLOWED if package.startswith("engine.") and package not in rows}
    rows |= dict.fromkeys(core, rows["engine"])
    assert rows.keys() - {"playground"} == ALLOWED.keys() - {"deployments", "batch", *SURROUNDINGS}
    up = {
        (package, other)
        for package, others in ALLOWED.items()
        for other in others
        if package in rows and rows[package] >= rows[other] and not {package, other} <= core
        if package.startswith("batch.") == other.startswith("batch.")
    }
    assert up == set()


@pytest.mark.parametrize("package", [*SURROUNDINGS, "tests"])
def test_the_product_imports_none_of_what_surrounds_it(package: str) -> None:
    assert importers(package) == set()


def test_only_the_build_sees_models_and_accelerators() -> None:
    within = {*inside(f"{ENGINE}.models"), *inside(f"{ENGINE}.accel")}
    assert (importers(f"{ENGINE}.models") | importers(f"{ENGINE}.accel")) - within == {"deployments.replica.build"}


@pytest.mark.parametrize("module", inside(f"{ENGINE}.accel"))
def test_accelerators_know_no_family(module: str) -> None:
    models = imported(module) & set(inside(f"{ENGINE}.models"))
    assert models <= {f"{ENGINE}.models.lora", f"{ENGINE}.models.vae"}


@pytest.mark.parametrize("module", inside(ENGINE))
def test_engine_knows_no_framework(module: str) -> None:
    assert {name for name in graph()[module] if name.partition(".")[0] in ("ray", "fastapi", "starlette")} == set()


def test_only_the_async_engine_knows_asyncio() -> None:
    assert importers("asyncio") & set(inside(ENGINE)) == {f"{ENGINE}.async_engine"}


def test_the_service_knows_no_http() -> None:
    assert importers("fastapi") | importers("starlette") <= {
        *inside("deployments.api"),
        "deployments.proxy",
        "deployments.router",
    }


def test_router_and_model_meet_only_where_the_app_is_bound() -> None:
    assert "deployments.model" not in reach("deployments.router")
    assert "deployments.router" not in reach("deployments.model")


@pytest.mark.parametrize("module", ["deployments.router", *inside("batch")])
def test_only_a_models_replica_loads_the_engine(module: str) -> None:
    loaded = {name for name in reach(module) if name.startswith(ENGINE)}
    assert loaded <= {ENGINE, f"{ENGINE}.errors", f"{ENGINE}.request"}


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output))


@pytest.mark.subprocess
def test_decisions_are_made_without_torch() -> None:
    loaded = loaded_by(*(f"{ENGINE}.{name}" for name in ("scheduler", "state", "request", "engine", "async_engine")))
    assert "torch" not in loaded
    assert f"{ENGINE}.scheduler" in loaded


@pytest.mark.subprocess
def test_engine_loads_no_framework_in_a_fresh_interpreter() -> None:
    loaded = loaded_by(f"{ENGINE}.engine", f"{ENGINE}.runner")
    assert loaded & {"ray", "fastapi", "starlette", "diffusers", f"{ENGINE}.async_engine"} == set()
    assert {name for name in loaded if name.startswith("deployments.") and not name.startswith(ENGINE)} == set()


@pytest.mark.subprocess
def test_the_app_is_bound_without_loading_what_only_its_replicas_need() -> None:
    loaded = loaded_by("deployments.app")
    assert "deployments.model" in loaded
    assert loaded & {"torch", "diffusers", "transformers"} == set()
