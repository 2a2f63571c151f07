"""Every package that the code imports is listed in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PRODUCT, OTHERS = {"deployments", "batch"}, {"benchmarks", "training", "scripts", "tests"}
# The packages whose import has another name.
PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-contrib-python-headless",
    "openvino_tokenizers": "openvino-genai",
    "stable_diffusion_cpp": "stable-diffusion-cpp-python",
    "yaml": "pyyaml",
}


def listed(requirements: Iterable[str]) -> set[str]:
    """The names of the packages, normalized."""
    names = (re.split(r"[^\w.-]", requirement)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def imported(folder: str) -> set[str]:
    """The packages of others that the Python files under a folder import."""
    nodes = [node for file in (ROOT / folder).rglob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    names = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - PRODUCT - OTHERS
    return {PACKAGES.get(name, name.replace("_", "-")) for name in names}


@pytest.mark.parametrize("folder", sorted(PRODUCT))
def test_product_imports_only_dependencies_and_its_optional_backend(folder: str) -> None:
    assert imported(folder) <= listed([*PROJECT["dependencies"], *EXTRAS["openvino"]])


@pytest.mark.parametrize("folder", sorted(OTHERS))
def test_everything_else_imports_only_what_some_extra_lists(folder: str) -> None:
    assert imported(folder) <= listed([*PROJECT["dependencies"], *chain(*EXTRAS.values())])


def test_every_dependency_has_its_version_and_its_reason() -> None:
    required = listed(name for extra in ("bench", "openvino", "train", "dev") for name in EXTRAS[extra])
    required = (required | listed(PROJECT["dependencies"])) - {PROJECT["name"]}
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert required <= listed(line for line in lines if line and line[0] != "#")
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "dependencies.md").read_text("utf-8"), re.MULTILINE)
    assert required <= listed(name for row in rows for name in re.split(r",? (?:\(.*)?", row))
