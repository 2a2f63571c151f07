"""Tensors come and go unchanged, and a step's time is its own; on a GPU too, where there is one."""

from __future__ import annotations

import pytest
import torch

from deployments.engine.transfers import Pace, ToHost, to_device

DEVICES = [torch.device(name) for name in ("cpu", *["cuda"] * torch.cuda.is_available())]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_come_back_as_they_went(device: torch.device) -> None:
    sent = [torch.randn(3, 4).T, torch.arange(5), torch.tensor(True)]
    there = [to_device(tensor, device) for tensor in sent]
    assert {tensor.device.type for tensor in there} == {device.type}
    assert all(torch.equal(a, b) for a, b in zip(ToHost(*there).wait(), sent, strict=True))


def test_step_is_timed_at_once_where_the_host_computes_it() -> None:
    pace: Pace[str] = Pace(torch.device("cpu"))
    for whose in ("a", "b"):
        pace.step_done(whose, pace.now())
    assert [whose for whose, _ in pace.timed()] == ["a", "b"]
    assert pace.timed() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_step_is_timed_while_the_next_is_under_way() -> None:
    pace: Pace[int] = Pace(torch.device("cuda"))
    for size in (4096, 16, 16):
        started = pace.now()
        torch.ones(size, size, device="cuda") @ torch.ones(size, size, device="cuda")
        pace.step_done(size, started)
    timed = pace.timed()
    assert [size for size, _ in timed] == [4096, 16]
    assert timed[0][1] > timed[1][1] > 0
