"""Pairs of rows, as GPUs take them, give what single rows give."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.architectures import unet_arguments
from deployments.engine.adapters import without_adapters
from deployments.engine.graphs import Counters, Graphed, Limits
from deployments.engine.hoisting import HoistedUnet
from deployments.engine.inductor import compiled
from deployments.engine.pairs import PairedUnet, pairs_first
from deployments.engine.state import Rows
from tests.replays import Recaller

Checkpoints = Callable[[str], Path]
PAIR, WITHOUT_NEGATIVE, SINGLE = Rows(2), Rows(2, lacks_negative=True), Rows(1)


def open_unet(folder: Path | str) -> HoistedUnet:
    return HoistedUnet(UNet2DConditionModel.from_pretrained(folder, subfolder="unet"))


def inputs(unet: HoistedUnet, requests: list[Rows]) -> list[torch.Tensor]:
    """Rows of such requests: a pair's have the same latents and, where these do not know the prompt, times."""
    torch.manual_seed(0)
    knows_prompt = unet.unet.config.addition_embed_type is not None
    latents, times, context = [], [], []
    for request in requests:
        latents += [torch.randn(unet.unet.config.in_channels, 8, 6)] * request.count
        row = torch.randn(unet.times_width)
        times += [torch.randn(unet.times_width) if knows_prompt else row for _ in range(request.count)]
        context += [torch.randn(77, unet.context_width) for _ in range(request.count)]
        if request.lacks_negative:
            context[-2] = torch.zeros_like(context[-2])
    return [torch.stack(rows) for rows in (latents, times, context)]


def of_pairs(paired: PairedUnet, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents, times, context = rows
    return latents[::2], times.unflatten(0, (-1, 2)), context.unflatten(0, (-1, 2))[:, -paired.contexts :]


@pytest.mark.parametrize(
    ("kind", "request_rows"), [("sd15", PAIR), ("sd21", PAIR), ("lcm", PAIR), ("sdxl", WITHOUT_NEGATIVE)]
)
@torch.inference_mode()
def test_pairs_give_what_their_rows_give(kind: str, request_rows: Rows, checkpoints: Checkpoints) -> None:
    unet = open_unet(checkpoints(kind))
    paired = PairedUnet(without_adapters(unet))
    assert paired.is_possible
    for count in (1, 2, 3):
        rows = inputs(unet, [request_rows] * count)
        torch.testing.assert_close(paired(*of_pairs(paired, rows)).flatten(0, 1), unet(*rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "request_rows"), [("sd15", PAIR), ("sdxl", WITHOUT_NEGATIVE)])
@torch.inference_mode()
def test_pairs_are_compiled_once_for_all_numbers(kind: str, request_rows: Rows, checkpoints: Checkpoints) -> None:
    unet = open_unet(checkpoints(kind))
    paired, counters = PairedUnet(without_adapters(unet)), Counters()
    made = compiled(paired, counters, "eager")
    for count in (4, 2, 3):
        rows = inputs(unet, [request_rows] * count)
        torch.testing.assert_close(made(*of_pairs(paired, rows)).flatten(0, 1), unet(*rows), atol=1e-5, rtol=1e-5)
    assert counters.compilations == 1


@pytest.mark.parametrize(
    ("family", "size", "request_rows", "saved"),
    [("sd15", 64, PAIR, 0.025), ("sdxl", 128, WITHOUT_NEGATIVE, 0.037)],
)
def test_real_architectures_save_what_the_module_says(family: str, size: int, request_rows: Rows, saved: float) -> None:
    arguments = {name: value for name, value in unet_arguments(family).items() if name != "noise_gain"}  # type: ignore[arg-type]
    with torch.device("meta"), torch.inference_mode():
        unet = HoistedUnet(UNet2DConditionModel(**arguments))
        paired = PairedUnet(without_adapters(unet))
        latents, times = torch.empty(2, 4, size, size), torch.empty(2, unet.times_width)
        rows = [latents, times, torch.empty(2, 77, unet.context_width)]
        counts = []
        for call in (lambda: unet(*rows), lambda: paired(*of_pairs(paired, rows))):
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(counter.get_total_flops())
    assert 1 - counts[1] / counts[0] == pytest.approx(saved, abs=0.001)


class Bench:
    """A tiny UNet recorded for rows, n of which take n + 0.5 seconds, and, when asked, for pairs."""

    def __init__(self, unet: HoistedUnet, pair_seconds: Callable[[int], float] = lambda pairs: 1.9 * pairs) -> None:
        self.asked: list[Callable[[], object]] = []
        limits = Limits((1, 2, 4, 8), 1, 1)
        self.by_rows, self.by_pairs = Counters(), Counters()
        self.paired = PairedUnet(without_adapters(unet))
        self.rows = Graphed(unet, unet, Recaller(lambda rows: rows + 0.5), limits, self.by_rows, self.asked.append)
        self.pairs = Graphed(
            self.paired, self.paired, Recaller(pair_seconds), Limits((2, 4), 1, 1), self.by_pairs, self.asked.append
        )
        self.forward = pairs_first(self.rows, self.pairs, self.paired)
        self.rows.record(inputs(unet, [SINGLE]))

    def record_pairs(self, unet: HoistedUnet) -> None:
        self.pairs.record(of_pairs(self.paired, inputs(unet, [PAIR])))


@pytest.mark.parametrize(
    ("requests", "of_pairs", "of_rows"),
    [
        ([PAIR, PAIR], 1, 0),
        ([PAIR, PAIR, PAIR], 1, 0),  # as four
        ([PAIR, PAIR, SINGLE], 1, 1),
        ([PAIR], 0, 1),
        ([PAIR, SINGLE], 0, 2),
        ([SINGLE, SINGLE], 0, 1),
    ],
)
@torch.inference_mode()
def test_mixed_batches_come_out_as_rows_alone(
    requests: list[Rows], of_pairs: int, of_rows: int, checkpoints: Checkpoints
) -> None:
    unet = open_unet(checkpoints("sd15"))
    bench = Bench(unet, lambda pairs: pairs + 1)
    bench.record_pairs(unet)
    rows = inputs(unet, requests)
    outputs = bench.forward(rows[0], rows[1], rows[2], requests)
    torch.testing.assert_close(outputs, unet(*rows), atol=1e-5, rtol=1e-5)
    assert (bench.by_pairs.replays, bench.by_rows.replays) == (of_pairs, of_rows)
    assert bench.by_pairs.fallbacks == bench.by_rows.fallbacks == 0


@torch.inference_mode()
def test_pairs_that_take_longer_go_as_rows(checkpoints: Checkpoints) -> None:
    unet = open_unet(checkpoints("sd15"))
    bench = Bench(unet, lambda pairs: 2.3 * pairs)
    bench.record_pairs(unet)
    rows = inputs(unet, [PAIR, PAIR])
    assert torch.equal(bench.forward(rows[0], rows[1], rows[2], [PAIR, PAIR]), bench.rows(*rows))
    assert bench.by_pairs.replays == 0


@torch.inference_mode()
def test_pairs_of_another_size_are_asked_for_and_go_as_rows_meanwhile(checkpoints: Checkpoints) -> None:
    unet = open_unet(checkpoints("sd15"))
    bench = Bench(unet)
    rows = inputs(unet, [PAIR, PAIR])
    assert math.isinf(bench.pairs.seconds_of(of_pairs(bench.paired, rows)))
    assert torch.equal(bench.forward(rows[0], rows[1], rows[2], [PAIR, PAIR]), bench.rows(*rows))
    (work,) = bench.asked
    work()
    torch.testing.assert_close(
        bench.forward(rows[0], rows[1], rows[2], [PAIR, PAIR]), unet(*rows), atol=1e-5, rtol=1e-5
    )
    assert (bench.by_pairs.replays, bench.pairs.seconds_of(of_pairs(bench.paired, rows))) == (1, 3.8)


@torch.inference_mode()
def test_negative_prompts_of_sdxl_go_as_rows(checkpoints: Checkpoints) -> None:
    unet = open_unet(checkpoints("sdxl"))
    requests = [WITHOUT_NEGATIVE, WITHOUT_NEGATIVE, PAIR]
    paired = PairedUnet(without_adapters(unet))
    assert [paired.suits(request) for request in [*requests, SINGLE]] == [True, True, False, False]
    rows = inputs(unet, requests)
    limits = Limits((2, 4), 1, 1)
    by_rows, by_pairs = (
        Graphed(network, network, Recaller(float), limits, Counters(), list[object]().append)
        for network in (unet, paired)
    )
    by_rows.record(rows)
    by_pairs.record(of_pairs(paired, inputs(unet, requests[:2])))
    outputs = pairs_first(by_rows, by_pairs, paired)(rows[0], rows[1], rows[2], requests)
    torch.testing.assert_close(outputs, unet(*rows), atol=1e-5, rtol=1e-5)
