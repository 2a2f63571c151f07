"""Options and the one fixture that every part of the suite shares."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.checkpoints import build

# The tests' networks are tiny: more threads only get in each other's way. Replicas choose for themselves.
torch.set_num_threads(1)

# A Ray cluster that runs on this machine is not the tests' business: they start their own, whose files and token go
# with them. Ray's sockets need a short path.
RAY_FILES = tempfile.mkdtemp(prefix="ray-")
os.environ |= {"RAY_ADDRESS": "local", "RAY_TMPDIR": RAY_FILES, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def pytest_unconfigure() -> None:
    shutil.rmtree(RAY_FILES, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-count", type=int, default=30, help="random settings compared with diffusers")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of the given kind, built when first asked for."""
    return cache(lambda kind: build(kind, tmp_path_factory.mktemp("checkpoints") / kind))
