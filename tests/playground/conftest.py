"""A browser and the application that it opens: see `xdist_group("playground")`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.playground import serving_playground
from tests.support.service import Service


@pytest.fixture(scope="module")
def service(ink: Callable[[Path], Path]) -> Iterator[Service]:
    with serving_playground(ink) as service:
        yield service


# tests.support.browser skips what imports it where playwright is missing, which a conftest must not.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.support.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, service: Service) -> Iterator[Any]:
    """The playground as it opens. The test fails if the page logs a problem or asks another host."""
    from tests.support.browser import tab_of, visit

    with tab_of(browser, service) as tab:
        visit(tab)
        yield tab
