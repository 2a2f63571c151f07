"""What the whole suite shares: which tests are fast, which run in one process, and the checkpoints they open."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ports import free_port
from tests.support.api_keys import serving_with_keys
from tests.support.service import Service, plain_cluster, stop_shared_cluster

# Markers of pyproject.toml: a test with one of them is not fast.
NOT_FAST = ("service", "chromium", "node", "prometheus", "subprocess", "slow")
FAST_PARITY_COUNT = 5
LONG_NAME = 100
PROCESS_EVENTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system")

# The tests' networks are tiny: more threads only get in each other's way. Replicas choose for themselves.
torch.set_num_threads(1)

# While OpenVINO converts a network, in another thread perhaps, the root logger lets only errors through.
logging.getLogger("deployments").setLevel(logging.WARNING)

# A Ray cluster that runs on this machine is not the tests' business: they start their own, whose files and token go
# with them. Ray's sockets need a short path.
RAY_FILES = tempfile.mkdtemp(prefix="ray-")
os.environ |= {"RAY_ADDRESS": "local", "RAY_TMPDIR": RAY_FILES, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# What Serve writes for HAProxy; by default, it stays in /tmp.
HAPROXY_FILES = Path(RAY_FILES) / "h"  # short, for its socket
os.environ |= {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(HAPROXY_FILES / "haproxy.cfg"),
    "RAY_SERVE_HAPROXY_SOCKET_PATH": str(HAPROXY_FILES / "admin.sock"),
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(HAPROXY_FILES),
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(HAPROXY_FILES / "server-state"),
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(HAPROXY_FILES / "metrics.sock"),
    "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
}
# A router behind HAProxy lives on for half a minute, as load balancers outside may take so long to see it go.
os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"
# As `make serve` and docs/operations.md have it.
os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "deployments.proxy:middlewares"
os.environ["XDG_CACHE_HOME"] = str(Path(RAY_FILES) / "cache")  # compiled networks go with them too


def pytest_configure(config: pytest.Config) -> None:
    if config.option.fast:
        config.option.parity_count = min(config.option.parity_count, FAST_PARITY_COUNT)


def pytest_unconfigure() -> None:
    stop_shared_cluster()
    shutil.rmtree(RAY_FILES, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=f"only tests without the markers {', '.join(NOT_FAST)}")
    parser.addoption("--parity-count", type=int, default=30, help="random settings compared with diffusers")
    parser.addoption("--fuzz-cases", type=int, default=100, help="requests generated from the OpenAPI document")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long text is named by its length: each name goes to every process and into the environment."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > LONG_NAME else None


def is_fast(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in NOT_FAST)


# Groups: with `--dist loadgroup` the tests of a group run in one process.


def group_of(item: pytest.Item) -> str:
    """The name in the item's `xdist_group` marker. Without a marker: its file, whose module fixtures are built once."""
    marker = item.get_closest_marker("xdist_group")
    return marker.args[0] if marker else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the fast tests if only those are wanted. Give every test a group, and order the groups.

    Groups that start Ray come first: most of their time is waiting, which goes well beside tests that compute.
    """
    if config.option.fast:
        config.hook.pytest_deselected(items=[item for item in items if not is_fast(item)])
        items[:] = [item for item in items if is_fast(item)]
    groups = [group_of(item) for item in items]
    for item, group in zip(items, groups, strict=True):
        item.add_marker(pytest.mark.xdist_group(group))
    with_ray = {group for item, group in zip(items, groups, strict=True) if item.get_closest_marker("service")}
    order = {group: (group not in with_ray, place) for place, group in enumerate(dict.fromkeys(groups))}
    items.sort(key=lambda item: order[group_of(item)])


# A fast test that starts a process fails, so that nobody forgets the marker.

_started: list[str] = []


def _note_process(event: str, details: tuple[Any, ...]) -> None:
    if event in PROCESS_EVENTS:
        _started.append(f"{event}({details[0]!r})" if details else event)


sys.addaudithook(_note_process)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fixtures of higher scope belong to the test that asks for them first: their processes count, too."""
    result = yield
    if is_fast(item) and _started:
        pytest.fail(f"no marker of {', '.join(NOT_FAST)}, but a process was started: {_started}", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _started.clear()


@pytest.fixture(scope="module", autouse=True)
def no_idle_cluster(request: pytest.FixtureRequest) -> None:
    """No module of tests that only compute has a Ray beside it, apart from modules in a group that shares one."""
    if not any(map(request.node.get_closest_marker, ("service", "xdist_group"))):
        stop_shared_cluster()
        _started.clear()


# The libraries of a checkpoint take seconds to import: only those who build one wait for them.


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of the given kind, built when first asked for."""

    @cache
    def folder_of(kind: str) -> Path:
        from tests.support.checkpoints import build

        return build(kind, tmp_path_factory.mktemp("checkpoints") / kind)

    return folder_of


@pytest.fixture(scope="session")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The file of an adapter for the given checkpoint, built when first asked for."""

    @cache
    def file_for(checkpoint: Path) -> Path:
        from tests.support.loras import build_lora

        return build_lora(checkpoint, tmp_path_factory.mktemp("loras") / "ink.safetensors", seed=1)

    return file_for


@pytest.fixture(scope="module")
def keyed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The application behind API keys: see `xdist_group("api-keys")`."""
    # The same file for every module, so that they find the same application.
    with serving_with_keys(tmp_path_factory.getbasetemp()) as service:
        yield service


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster in this process."""
    with plain_cluster():
        yield
