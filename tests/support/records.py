"""Records of measurements that nobody made."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.records import Measurement, Options, Record
from benchmarks.machine import Machine

FACTS: dict[str, Any] = {
    "date": "2026-01-01T00:00:00+00:00",
    "commit": "0123456789ab",
    "machine": Machine(cpu="a processor", cores=1, memory_gb=1, gpu=None, versions={}),
    "command": "python -m x",
}


def measured(dtype: str = "float32", **changes: Any) -> Measurement:
    """Two images of 1 and 3 s."""
    values = {
        "backend": "engine",
        "settings": "mixed",
        "mode": "closed",
        "dtype": dtype,
        "seconds": 4.0,
        "latencies": (1.0, 3.0),
        "psnr": (90.0, 80.0),
        "model_bytes": 1,
        "all_bytes": 1,
        "gpu_bytes": None,
        "load_average": 0.0,
    }
    return Measurement(**{**values, **changes})


def recorded(**changes: Any) -> Record:
    """A comparison with one measurement."""
    values = {"options": Options(), "rates": {}, "control_psnr": 0, "measurements": (measured(),)}
    return Record(**{**FACTS, **values, **changes})
