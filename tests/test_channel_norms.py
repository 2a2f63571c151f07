"""Group normalisation by way of its channels gives what it gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployments.engine import channel_norms
from deployments.engine.channel_norms import ChannelNorm, normalize_by_channels


@pytest.mark.parametrize("shape", [(2, 12, 64, 64), (3, 12, 80, 60), (2, 12, 4096), (2, 12, 8, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
@torch.no_grad()
def test_it_gives_what_the_usual_one_gives(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(3, 12).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    far = torch.linspace(-20, 20, 12, dtype=dtype).view(12, *[1] * (len(shape) - 2))  # means far apart, and from zero
    hidden = torch.randn(shape).to(dtype) + far
    found = ChannelNorm(norm)(hidden)
    assert found.dtype == dtype
    torch.testing.assert_close(found, norm(hidden), atol=tolerance, rtol=tolerance)


def test_it_is_the_usual_one_for_few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_norms, "LEAST_PIXELS", 65)
    norm, hidden = nn.GroupNorm(3, 12), torch.randn(1, 12, 8, 8)
    assert torch.equal(ChannelNorm(norm)(hidden), norm(hidden))


def test_all_norms_of_a_network_are_replaced_and_keep_their_weights() -> None:
    network = nn.Sequential(nn.GroupNorm(2, 4), nn.Sequential(nn.GroupNorm(4, 4), nn.GroupNorm(4, 4, affine=False)))
    weights = list(network.parameters())
    normalize_by_channels(network)
    assert sum(isinstance(module, ChannelNorm) for module in network.modules()) == 2
    assert all(a is b for a, b in zip(network.parameters(), weights, strict=True))
