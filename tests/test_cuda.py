"""The forms that a GPU's networks take, on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engine.cuda import CudaRecorder, cuda_forms
from deployments.engine.engine import Engine
from deployments.engine.graphs import Counters, Graphed, Limits
from deployments.engine.loading import load_checkpoint
from deployments.engine.request import Img2ImgRequest
from deployments.engine.runner import Runner
from tests.reference import picture, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
REQUESTS = [
    Img2ImgRequest("a", picture(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", picture(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", picture(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),
]


@torch.inference_mode()
def test_replayed_graphs_give_what_was_recorded() -> None:
    asked: list[Callable[[], object]] = []
    limits = Limits((1, 2, 4), 1, 1)
    graphed = Graphed(torch.sin, torch.sin, CudaRecorder(torch.device("cuda")), limits, Counters(), asked.append)
    graphed.record([torch.zeros(0, 3, device="cuda")])
    for rows in range(1, 10):
        x = torch.randn(rows, 3, device="cuda")
        assert torch.equal(graphed(x), torch.sin(x))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_every_form_gives_the_same_images(kind: str, checkpoints: Callable[[str], Path]) -> None:
    checkpoint = load_checkpoint(str(checkpoints(kind)), device="cuda", dtype="float32")
    runner = Runner(checkpoint)
    engine = Engine(runner, max_rows=8)
    expected = run(engine, REQUESTS)
    forms = []
    for networks in cuda_forms(checkpoint, 8):
        runner.offer(networks)
        images = run(engine, REQUESTS, join_every=2)
        forms.append(runner.form)
        far = max(np.abs(images[name].astype(int) - expected[name]).max() for name in expected)
        assert far <= 1, runner.form
    assert forms[0] == "graphs"
    counters = runner.form_counters()
    assert counters["replays"] > 0
    assert (counters["recordings_in_step"], counters["compilations_in_step"], counters["failures"]) == (0, 0, 0)
