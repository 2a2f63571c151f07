"""Device and dtype by rule, and the memory settings on a pipeline that only takes notes."""

from __future__ import annotations

import logging

import pytest
import torch

from deployments.engine.models.devices import (
    WORTHWHILE,
    bfloat16_gain,
    choose_device,
    choose_dtype,
    save_memory,
    vae_dtypes,
)

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))
HAS_CUDA, HAS_MPS = torch.cuda.is_available(), torch.backends.mps.is_available()


def test_auto_takes_the_best_device_there_is() -> None:
    assert choose_device("auto").type == ("cuda" if HAS_CUDA else "mps" if HAS_MPS else "cpu")


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(
    "name", [name for name, here in (("cuda", HAS_CUDA), ("cuda:1", HAS_CUDA), ("mps", HAS_MPS)) if not here]
)
def test_absent_device_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' was requested, but torch finds"):
        choose_device(name)


@pytest.mark.parametrize("reproducible", [True, False])
@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_configured_dtype_is_used_on_every_device(name: str, device: torch.device, reproducible: bool) -> None:
    assert choose_dtype(name, device, overflows=False, reproducible=reproducible) == getattr(torch, name)


@pytest.mark.parametrize("reproducible", [True, False])
@pytest.mark.parametrize(
    ("device", "has_bfloat16", "overflows", "dtype"),
    [
        (CUDA, True, False, torch.float16),
        (CUDA, True, True, torch.bfloat16),
        (CUDA, False, False, torch.float16),
        (CUDA, False, True, torch.float32),
        (MPS, False, False, torch.float32),
        (MPS, False, True, torch.float32),
    ],
)
def test_automatic_dtype_goes_by_device_and_float16s_range(
    device: torch.device,
    has_bfloat16: bool,
    overflows: bool,
    dtype: torch.dtype,
    reproducible: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    assert choose_dtype("auto", device, overflows=overflows, reproducible=reproducible) == dtype


def test_reproducible_cpu_is_float32_without_a_measurement() -> None:
    bfloat16_gain.cache_clear()
    assert choose_dtype("auto", CPU, overflows=False, reproducible=True) == torch.float32
    assert bfloat16_gain.cache_info().currsize == 0


def test_cpu_takes_bfloat16_only_where_it_was_measured_faster() -> None:
    chosen = choose_dtype("auto", CPU, overflows=False, reproducible=False)
    assert (chosen == torch.bfloat16) == (bfloat16_gain() >= WORTHWHILE)
    assert chosen in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("overflows", [True, False])
def test_vae_follows_the_unet_but_one_that_float16_overflows_encodes_in_float32(
    dtype: torch.dtype, overflows: bool
) -> None:
    encoder = torch.float32 if overflows else dtype
    decoder = torch.float32 if overflows and dtype == torch.float16 else dtype
    assert vae_dtypes(dtype, CPU, overflows=overflows) == (encoder, decoder)


class NoteTaker:
    """A pipeline and its VAE in one, without xformers: it notes the calls that it gets."""

    def __init__(self, xformers: bool = False) -> None:
        self.notes: list[str] = []
        self.vae = self
        self._xformers = xformers

    def enable_attention_slicing(self) -> None:
        self.notes.append("attention sliced")

    def enable_slicing(self) -> None:
        self.notes.append("vae sliced")

    def enable_xformers_memory_efficient_attention(self) -> None:
        if not self._xformers:
            raise ModuleNotFoundError("Refer to https://github.com/facebookresearch/xformers")
        self.notes.append("xformers")

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        self.notes.append(f"offloaded from {device}")


def test_memory_is_saved_with_every_means_there_is(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = NoteTaker(xformers=True)
    save_memory(pipeline, torch.device("cuda:1"))
    assert pipeline.notes == ["attention sliced", "vae sliced", "xformers", "offloaded from cuda:1"]
    assert caplog.records == []


def test_missing_xformers_is_one_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = NoteTaker()
    save_memory(pipeline, CUDA)
    assert pipeline.notes == ["attention sliced", "vae sliced", "offloaded from cuda"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "xformers is not installed" in record.getMessage()


@pytest.mark.parametrize("device", [CPU, MPS])
def test_weights_are_not_offloaded_where_there_is_one_memory(device: torch.device) -> None:
    pipeline = NoteTaker(xformers=True)
    save_memory(pipeline, device)
    assert pipeline.notes == ["attention sliced", "vae sliced"]
