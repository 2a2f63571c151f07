"""A result does not depend on who else is in the step batch, when they came, or in what order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from deployments.engine.engine import Engine
from deployments.engine.request import Img2ImgRequest
from tests.support.reference import make_engine, run, smooth_image

IMAGE = smooth_image(5, 64, 64)
FOUR = [
    Img2ImgRequest("long", IMAGE, "castles", None, 0.9, 7.5, 6, 1, "dpmpp_2m"),
    Img2ImgRequest("unguided", smooth_image(6, 64, 64), "a cat", "blurry", 0.5, 1.0, 6, 2, "euler_ancestral"),
    Img2ImgRequest("short", IMAGE, "picasso", "", 0.3, 20.0, 7, 3, "ddim"),
    Img2ImgRequest("distilled", smooth_image(7, 64, 64), "", None, 1.0, 3.0, 3, 4, "lcm"),
]


def alone(engine: Engine) -> dict[str, np.ndarray]:
    return {request.request_id: run(engine, [request])[request.request_id] for request in FOUR}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "join_every"), [("sd15", 0), ("sd15", 1), ("sd15", 3), ("sdxl", 1)])
def test_every_join_order_gives_the_image_of_the_request_alone(
    family: str, join_every: int, checkpoints: Callable[[str], Path]
) -> None:
    engine = make_engine(checkpoints(family))
    expected = alone(engine)
    for order in permutations(FOUR):
        for request_id, pixels in run(engine, list(order), join_every=join_every).items():
            assert np.abs(pixels.astype(int) - expected[request_id].astype(int)).max() <= 1, (request_id, order)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "join_every"), [("sd15", 0), ("sd15", 1), ("sd15", 3), ("sd21", 1)])
def test_every_join_order_gives_the_same_bytes_when_reproducible(
    family: str, join_every: int, checkpoints: Callable[[str], Path]
) -> None:
    engine = make_engine(checkpoints(family), reproducible=True)
    expected = alone(make_engine(checkpoints(family), reproducible=True, max_rows=2))
    for order in permutations(FOUR):
        for request_id, pixels in run(engine, list(order), join_every=join_every).items():
            assert pixels.tobytes() == expected[request_id].tobytes(), (request_id, order)


@pytest.mark.slow
def test_strangers_of_another_size_change_nothing(checkpoints: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoints("sd15"), reproducible=True)
    expected = alone(engine)
    stranger = Img2ImgRequest("stranger", smooth_image(8, 40, 72), "castles", None, 0.7, 5.0, 9, 9)
    for request in FOUR:
        assert (
            run(engine, [stranger, request], join_every=1)[request.request_id].tobytes()
            == expected[request.request_id].tobytes()
        )
