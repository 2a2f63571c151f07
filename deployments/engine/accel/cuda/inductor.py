"""Forwards compiled by torch.compile, for one image size at a time and every number of rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from platformdirs import user_cache_path
from torch._dynamo import lookup_backend

from deployments.engine.accel.cuda.graphs import Counters, Forward

MAX_VARIANTS = 256  # of one function: its shapes times the three ranges of rows that diffusers' UNet tells apart


def compiled(forward: Forward, counters: Counters, backend: str = "inductor") -> Forward:
    """The same function, compiled when it is called: minutes for each new shape, nothing for other numbers of rows.

    Raises what the compiler raises, and never runs uncompiled. `counters` count every compilation.
    """
    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * MAX_VARIANTS
    # Compiled kernels are kept between starts; the folder's entries are named after code, versions and GPU.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache_path("img2img-serve") / "inductor"))

    def compile_graph(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        counters.add_compilation()
        compiled_graph: Callable[..., Any] = lookup_backend(backend)(graph, inputs)
        return compiled_graph

    function = torch.compile(forward, fullgraph=True, dynamic=False, backend=compile_graph)

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        for x in inputs:
            torch._dynamo.maybe_mark_dynamic(x, 0)
        output: torch.Tensor = function(*inputs)
        return output

    return call
