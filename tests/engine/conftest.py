"""The engine's tests run where `deployments.engine.accel` cannot be imported, all but those in tests/engine/accel."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

ACCEL = "deployments.engine.accel"


@pytest.fixture(scope="module", autouse=True)
def no_accelerators(request: pytest.FixtureRequest) -> Iterator[None]:
    """For the modules beside this file."""
    with pytest.MonkeyPatch.context() as modules:
        if "accel" not in request.path.parts:
            for name in {ACCEL, *(name for name in sys.modules if name.startswith(f"{ACCEL}."))}:
                modules.setitem(sys.modules, name, None)
        yield
