"""The application that most tests of the HTTP APIs share: see `xdist_group("http-api")`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.http_api import serving_every_api
from tests.support.service import Service


@pytest.fixture(scope="module")
def service(checkpoints: Callable[[str], Path], ink: Callable[[Path], Path]) -> Iterator[Service]:
    with serving_every_api(checkpoints, ink) as service:
        yield service
