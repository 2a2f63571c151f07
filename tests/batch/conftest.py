"""The fixtures that the tests of the folder job share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray import serve

from batch.storage.storage import Storage, open_storage
from deployments.config import AppConfig
from tests.support.folders import Folder, NewFolder
from tests.support.images import file_of, gradient
from tests.support.s3_server import S3Server, s3_server
from tests.support.service import plain_cluster, shared_cluster
from tests.support.stand_in import MODELS, StandIn

FAILURE_RATE = 0.05


@pytest.fixture(scope="module")
def running_app(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The stand-in for the app. The modules of the xdist group "stand-in" share it."""

    @contextmanager
    def start() -> Iterator[None]:
        with plain_cluster():
            serve.start(proxy_location="Disabled")
            serve.run(StandIn.bind(AppConfig(models=MODELS), str(tmp_path_factory.mktemp("notes"))), name="img2img")
            yield

    shared_cluster("stand-in", start)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3 server for one module."""
    with s3_server() as server:
        yield server


@pytest.fixture
def remote(s3: S3Server) -> Storage:
    """A new folder on the S3 server."""
    return open_storage(s3.uri())


@pytest.fixture(scope="module", params=["local", "s3"])
def new_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewFolder]:
    """Makes folders by a name: local ones, and in a second run ones on an S3 server that fails some requests."""
    if request.param == "local":
        yield lambda name: Folder(str(tmp_path_factory.mktemp(name) / "folder"))
        return
    with s3_server() as server:
        server.failure_rate = FAILURE_RATE
        yield lambda name: Folder(server.uri())


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image in data/input_images of the working directory, where commands look up a bare name."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data" / "input_images" / "photo.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of(gradient(), "png"))
    return path
