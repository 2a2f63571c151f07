"""One application behind keys, for the tests of who is let in and of many people at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import DEFAULTS
from tests.support.service import Service, serving

SECRET = "img2img-the-secret-of-alice-0123456789"
MODEL = "fine"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def line(name: str, key: str, more: str = "") -> str:
    """Of a file of keys."""
    return f"{name}: {{sha256: {hashlib.sha256(key.encode()).hexdigest()}{more}}}\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its client has a key. The log is JSON."""
    path = tmp_path_factory.getbasetemp() / "keys.yaml"
    path.write_text(line("alice", SECRET))
    models: dict[str, dict[str, Any]] = {MODEL: {"checkpoint": "data/models/tiny-sd15", "defaults": DEFAULTS}}
    logging = {"encoding": "JSON"}
    with serving(models, headers=bearer(SECRET), logging_config=logging, keys={"file": str(path)}) as service:
        yield service
