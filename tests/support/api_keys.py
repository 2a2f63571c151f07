"""One application behind API keys, for the tests of authentication and of many callers at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.playground import DEFAULTS
from tests.support.service import Service, serving

SECRET = "img2img-the-secret-of-alice-0123456789"
MODEL = "fine"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def line(name: str, key: str, more: str = "") -> str:
    """One entry of a key file."""
    return f"{name}: {{sha256: {hashlib.sha256(key.encode()).hexdigest()}{more}}}\n"


@contextmanager
def serving_with_keys(folder: Path) -> Iterator[Service]:
    """The application with one key, SECRET, which its client sends. The key file lies in `folder`. The log is JSON."""
    path = folder / "keys.yaml"
    path.write_text(line("alice", SECRET))
    models: dict[str, dict[str, Any]] = {MODEL: {"checkpoint": "data/models/tiny-sd15", "defaults": DEFAULTS}}
    logging = {"encoding": "JSON"}
    with serving(models, headers=bearer(SECRET), logging_config=logging, keys={"file": str(path)}) as service:
        yield service
