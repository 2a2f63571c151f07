"""The hashes of the pinned versions: .ci/*.lock, which `make lock` writes and `make` installs by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ["requirements.lock", "requirements-dev.lock"]
PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<marker> ;.*?)?(?P<hashes>( \\\n {4}--hash=sha256:[0-9a-f]{64})*)$",
    re.M,
)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: str) -> dict[str, re.Match[str]]:
    """The pins of a file by the names of the packages."""
    return {normalized(pin["name"]): pin for pin in PIN.finditer((ROOT / path).read_text("utf-8"))}


def versions(path: str) -> dict[str, str]:
    return {name: pin["version"] for name, pin in pins(path).items()}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_version_is_the_constrained_one_and_has_hashes(lock: str):
    constraints, locked = versions("constraints.txt"), pins(f".ci/{lock}")
    assert all(pin["hashes"] for pin in locked.values())
    assert {name for name, pin in locked.items() if pin["version"] != constraints.get(name, pin["version"])} == set()
    elsewhere = {name: pin["marker"] for name, pin in locked.items() if name not in constraints}
    assert all(re.search("win32|emscripten", marker or "") for marker in elsewhere.values()), elsewhere


def test_every_constrained_version_but_torch_has_hashes():
    assert versions("constraints.txt").keys() - versions(".ci/requirements-dev.lock").keys() == {"torch"}


def test_what_serving_installs_is_part_of_what_testing_installs():
    assert versions(".ci/requirements.lock").items() <= versions(".ci/requirements-dev.lock").items()


def test_every_environment_is_installed_by_hash_before_the_project():
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    assert "LOCKED = $(INSTALL) --require-hashes --no-deps -r" in lines
    for lock, extra in zip(LOCKS, ("openvino", "dev"), strict=True):
        assert lines.index(f"\t$(LOCKED) .ci/{lock}") + 1 == lines.index(f"\t$(PROJECT) '.[{extra}]'")
