"""Layers that take a network's own place where they are quicker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks import gpu_layers
from deployments.engine.quicker import Substitute, replace_where_quicker


class Scaled(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.seconds * hidden


def seconds_of(call: Callable[[], object]) -> float:
    """What a Scaled of ones takes, by its own word."""
    output = call()
    assert isinstance(output, torch.Tensor)
    return float(output.flatten()[0])


def test_only_what_is_quicker_and_called_is_replaced() -> None:
    network = nn.ModuleDict({"slow": Scaled(2.0), "quick": Scaled(1.0), "unused": Scaled(9.0)})
    layers = {name: Scaled(1.5) for name in network}

    def run() -> None:
        network["slow"](torch.ones(1))
        network["quick"](torch.ones(1))

    substitutes = [Substitute(network, name, layer) for name, layer in layers.items()]
    assert replace_where_quicker(substitutes, run, seconds_of) == 1
    assert network["slow"] is layers["slow"]
    assert [network[name].seconds for name in ("quick", "unused")] == [1.0, 9.0]
    assert all(not layer._forward_pre_hooks for layer in network.values())


@pytest.mark.parametrize("kind", ["norm", "upsampling", "attention"])
@torch.inference_mode()
def test_layers_that_are_compared_on_a_gpu_give_the_same(kind: str) -> None:
    layer = next(layer for layer in gpu_layers.layers() if layer.name == kind)
    hidden = torch.randn(2, layer.shape[1], 64, 64) if kind == "norm" else torch.randn(1, layer.shape[1], 8, 8)
    torch.testing.assert_close(layer.substitute(hidden), layer.usual(hidden), atol=1e-4, rtol=1e-4)
