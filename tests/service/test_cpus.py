"""A replica computes on the CPUs and on the GPU that are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from deployments.replica.build import use_hardware
from deployments.replica.cpus import usable_cpus


def cpus_with(tmp_path: Path, files: dict[str, str], own: str = "0::/") -> int:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)
    return usable_cpus(tmp_path, tmp_path / "own")


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({}, "0::/", 16),
        ({"cpu.max": "max 100000\n"}, "0::/", 16),
        ({"cpu.max": "400000 100000\n"}, "0::/", 4),
        ({"cpu.max": "250000 100000\n"}, "0::/", 3),
        ({"cpu.max": "50000 100000\n"}, "0::/", 1),
        ({"cpu.max": "6400000 100000\n"}, "0::/", 16),
        ({"pod/cpu.max": "400000 100000\n", "pod/a/cpu.max": "max 100000\n"}, "0::/pod/a\n", 4),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", 16),
    ],
)
def test_threads_are_no_more_than_the_containers_cpus(
    files: dict[str, str], own: str, expected: int, tmp_path: Path
) -> None:
    assert cpus_with(tmp_path, files, own) == expected


@pytest.mark.parametrize(("device", "number"), [("auto", None), ("cuda", None), ("cuda:1", 1)])
def test_share_of_memory_is_of_the_configured_gpu(
    device: str, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[float, int | None]] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: shares.append(given))
    use_hardware(0.5, device)
    assert shares == [(0.5, number)]
