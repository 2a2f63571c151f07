"""Options and the fixtures that parts of the suite share."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.support.checkpoints import build
from tests.support.loras import build_lora
from tests.support.service import plain_cluster, stop_shared_cluster

# Files whose tests ask the same application, by a name for it.
SAME_APP = {
    "browser": ("test_playground", "test_playground_runs"),
    "locked": ("test_keys", "test_playground_crowd"),
    "stand-in": ("test_folder_resume", "test_run_folder", "test_run_image"),
    "doors": ("test_http", "test_huggingface", "test_openai", "test_openai_node", "test_streaming"),
}

# The tests' networks are tiny: more threads only get in each other's way. Replicas choose for themselves.
torch.set_num_threads(1)

# A Ray cluster that runs on this machine is not the tests' business: they start their own, whose files and token go
# with them. Ray's sockets need a short path.
RAY_FILES = tempfile.mkdtemp(prefix="ray-")
os.environ |= {"RAY_ADDRESS": "local", "RAY_TMPDIR": RAY_FILES, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ["XDG_CACHE_HOME"] = str(Path(RAY_FILES) / "cache")  # compiled networks go with them too


def pytest_unconfigure() -> None:
    stop_shared_cluster()
    shutil.rmtree(RAY_FILES, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-count", type=int, default=30, help="random settings compared with diffusers")
    parser.addoption("--fuzz-cases", type=int, default=300, help="requests generated from the OpenAPI document")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that start Ray come first: most of their time is waiting, which goes well beside tests that compute."""
    slow = {item.path for item in items if item.get_closest_marker("service")}
    items.sort(key=lambda item: item.path not in slow)


class _OneWorkerAnApp(LoadFileScheduling):
    """The tests of a file, and of all files with the same application, go to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(super()._split_scope(nodeid)).stem
        return next((app for app, files in SAME_APP.items() if file in files), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _OneWorkerAnApp(config, log)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of the given kind, built when first asked for."""
    return cache(lambda kind: build(kind, tmp_path_factory.mktemp("checkpoints") / kind))


@pytest.fixture(scope="session")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The file of an adapter for the given checkpoint, built when first asked for."""
    return cache(
        lambda checkpoint: build_lora(checkpoint, tmp_path_factory.mktemp("loras") / "ink.safetensors", seed=1)
    )


@pytest.fixture(scope="module", autouse=True)
def no_idle_cluster(request: pytest.FixtureRequest) -> None:
    """No module of tests that only compute has a Ray beside it."""
    if not request.node.get_closest_marker("service"):
        stop_shared_cluster()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster in this process."""
    with plain_cluster():
        yield
