"""Tensors come and go unchanged, and a step's time is its own; on a GPU too, where there is one."""

from __future__ import annotations

import pytest
import torch

from deployments.engine.transfers import StepPipeline, ToHost, is_out_of_memory, to_device

DEVICES = [torch.device(name) for name in ("cpu", *["cuda"] * torch.cuda.is_available())]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_come_back_as_they_went(device: torch.device) -> None:
    sent = [torch.randn(3, 4).T, torch.arange(5), torch.tensor(True)]
    there = [to_device(tensor, device) for tensor in sent]
    assert {tensor.device.type for tensor in there} == {device.type}
    assert all(torch.equal(a, b) for a, b in zip(ToHost(*there).wait(), sent, strict=True))


def test_step_is_timed_at_once_where_the_host_computes_it() -> None:
    pipeline: StepPipeline[str] = StepPipeline(torch.device("cpu"))
    for step in ("a", "b"):
        pipeline.submit(step, pipeline.now())
    assert [step for step, _ in pipeline.completed()] == ["a", "b"]
    assert pipeline.completed() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_step_is_timed_while_the_next_is_under_way() -> None:
    pipeline: StepPipeline[int] = StepPipeline(torch.device("cuda"))
    for size in (4096, 16, 16):
        started = pipeline.now()
        torch.ones(size, size, device="cuda") @ torch.ones(size, size, device="cuda")
        pipeline.submit(size, started)
    timed = pipeline.completed()
    assert [size for size, _ in timed] == [4096, 16]
    assert timed[0][1] > timed[1][1] > 0


def huge_allocation() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), huge_allocation()])
def test_running_out_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), ValueError("can't allocate memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)
