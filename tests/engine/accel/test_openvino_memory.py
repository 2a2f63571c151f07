"""A compiled network keeps memory for a few image sizes, not for every one that ever came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from deployments.engine.accel.cpu.openvino_backend import openvino_backend
from tests.support.reference import load_unet_family

pytestmark = pytest.mark.slow
SIDES = range(4, 18)  # of latents


@torch.inference_mode()
def test_memory_stays_flat_over_image_sizes(checkpoints: Callable[[str], Path]) -> None:
    family = load_unet_family(checkpoints("sd15"))
    compiled = openvino_backend(family)

    def grown_by(height: int) -> int:
        """Bytes that a row of new sizes adds to this process."""
        before = psutil.Process().memory_info().rss
        for width in SIDES:
            compiled.denoiser(*family.example_inputs(1, (height, width)))
        return psutil.Process().memory_info().rss - before

    growth = [grown_by(height) for height in SIDES]
    assert sum(growth[-5:]) < sum(growth[:5]) / 2
