"""A network on disk is used by those that would convert it to the same, and by no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deployments.engine.accel.backends import compile_now
from deployments.engine.accel.cpu import openvino_backend as backend_module
from deployments.engine.accel.cpu.openvino_backend import openvino_backend
from deployments.engine.models.stable_diffusion import StableDiffusion
from tests.support.reference import load_unet_family

TINY = Path("data/models/tiny-sd15")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "img2img-serve" / "openvino"


def fingerprint(family: StableDiffusion) -> str:
    example = family.example_inputs(1, (8, 8))
    return backend_module._fingerprint(
        backend_module._Float32(family.network, family.network.forward, family.dtype), example
    )


@pytest.fixture
def network() -> backend_module._Float32:
    layer = torch.nn.Linear(4, 4)
    return backend_module._Float32(layer, layer.forward, torch.float32)


def test_corrected_configuration_is_another_network(checkpoints: Callable[[str], Path]) -> None:
    families = [load_unet_family(checkpoints("sd15")) for _ in range(2)]
    assert fingerprint(families[0]) == fingerprint(families[1])
    families[1].network.unet.register_to_config(norm_eps=1e-3)
    assert fingerprint(families[0]) != fingerprint(families[1])


def test_network_of_other_code_is_another_network(
    tmp_path: Path, network: backend_module._Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "ENGINE", tmp_path)
    seen = set()
    for code in ("", "a = 1", "a = 2"):
        (tmp_path / "engine.py").write_text(code)
        seen.add(backend_module._fingerprint(network, (torch.zeros(1, 4),)))
    assert len(seen) == 3


def test_only_the_networks_used_last_stay_on_disk(folder: Path) -> None:
    folder.mkdir(parents=True)
    for age in range(backend_module.MAX_CACHED + 2):
        for suffix in (".xml", ".bin"):
            (folder / f"{age}{suffix}").touch()
            os.utime(folder / f"{age}{suffix}", (10_000 - age, 10_000 - age))
    backend_module._evict(folder)
    assert {int(file.stem) for file in folder.iterdir()} == set(range(backend_module.MAX_CACHED))
    assert len(list(folder.iterdir())) == 2 * backend_module.MAX_CACHED


@pytest.mark.slow
def test_unwritable_folder_changes_no_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    family = load_unet_family(TINY, reproducible=True)
    rows = family.example_inputs(2, (16, 16))
    cached = openvino_backend(family).denoiser(*rows)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert torch.equal(openvino_backend(family).denoiser(*rows), cached)


def test_reproducible_model_does_not_start_on_another_backend_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this processor is unknown")

    monkeypatch.setattr(backend_module, "_cached_model", fail)
    with pytest.raises(RuntimeError, match="this processor is unknown"):
        compile_now(load_unet_family(TINY, reproducible=True), 8)
