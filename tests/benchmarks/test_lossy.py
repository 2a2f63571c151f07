"""The measured shortcut is the one that it is named after: exact where nothing has changed, else not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks.lossy import Reuse


@pytest.fixture
def unet(checkpoints: Callable[[str], Path]) -> Any:
    return UNet2DConditionModel.from_pretrained(checkpoints("sd15") / "unet").eval()


@torch.inference_mode()
def test_deep_features_of_the_same_input_give_the_same_output(unet: Any) -> None:
    latents, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, unet.config.cross_attention_dim)
    reuse = Reuse(unet, every=2)
    whole, shallow = (reuse(latents, 500, context, return_dict=False)[0] for _ in range(2))
    torch.testing.assert_close(shallow, whole)
    assert torch.equal(reuse(latents, 500, context, return_dict=False)[0], whole)


@torch.inference_mode()
def test_deep_features_of_a_step_before_do_not(unet: Any) -> None:
    before, latents = torch.randn(2, 2, 4, 8, 8)
    context = torch.randn(2, 77, unet.config.cross_attention_dim)
    (exact,) = unet(latents, 400, context, return_dict=False)
    reuse = Reuse(unet, every=2)
    reuse(before, 500, context, return_dict=False)
    (shallow,) = reuse(latents, 400, context, return_dict=False)
    assert not torch.allclose(shallow, exact, atol=1e-3)
