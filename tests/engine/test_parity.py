"""The image is diffusers' own, whatever shares the step batch. `make parity` runs 200 settings, CI the first 30."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deployments.engine.request import Img2ImgRequest
from tests.support.reference import SCHEDULERS, Reference, make_engine, run, smooth_image

FAMILIES = ("sd15", "sd21", "sdxl", "sd15_sample", "lcm")
SIZES = ((64, 64), (48, 80), (72, 40))
PROMPTS = ("a cat in the corner", "in the style of picasso", "", "castles, ghibli style 🏰", "studio camera 45mm")


def random_request(number: int) -> tuple[str, Img2ImgRequest]:
    """The family and settings of case `number`: the same every time."""
    rng = random.Random(f"parity {number}")
    family = rng.choice(FAMILIES)
    # diffusers has no ancestral sampling for sample-prediction, so there is nothing to compare with.
    samplers = [name for name in SCHEDULERS if (family, name) != ("sd15_sample", "euler_ancestral")]
    steps = rng.randint(1, 50)
    return family, Img2ImgRequest(
        request_id=str(number),
        pixels=smooth_image(number, *rng.choice(SIZES)),
        prompt=rng.choice(PROMPTS),
        negative_prompt=rng.choice((None, "", "blurry, bad hands")),
        strength=max(rng.uniform(0.05, 1), 1.001 / steps) if steps > 1 else 1.0,
        guidance_scale=rng.choice((0.0, 1.0, rng.uniform(1, 20))),
        num_inference_steps=steps,
        seed=rng.getrandbits(32),
        sampler=rng.choice(samplers),  # type: ignore[arg-type]
    )


def test_every_request_in_a_batch_of_strangers_is_diffusers_image(
    checkpoints: Callable[[str], Path], pytestconfig: pytest.Config
) -> None:
    by_family = defaultdict(list)
    for number in range(pytestconfig.getoption("--parity-count")):
        family, request = random_request(number)
        by_family[family].append(request)

    differences = []
    for family, requests in by_family.items():
        ours = run(make_engine(checkpoints(family)), requests, join_every=2)
        reference = Reference(checkpoints(family))
        for request in requests:
            difference = np.abs(ours[request.request_id].astype(int) - reference(request).astype(int))
            assert difference.max() <= 3, f"{family} {request}"
            differences.append(difference.ravel())

    within_one = float(np.mean(np.concatenate(differences) <= 1))
    print(f"{len(differences)} settings: {within_one:.6%} of values within 1/255, max {max(map(np.max, differences))}")
    assert within_one >= 0.9999


def test_the_cases_cover_all_families_samplers_and_modes() -> None:
    cases = [random_request(number) for number in range(200)]
    assert {family for family, _ in cases} == set(FAMILIES)
    assert {request.sampler for _, request in cases} == set(SCHEDULERS)
    assert {request.guidance_scale > 1 for _, request in cases} == {True, False}
    assert {request.num_denoise_steps for _, request in cases} >= {1, 2, 10}


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_seeds_of_one_request_are_independent_images(family: str, checkpoints: Callable[[str], Path]) -> None:
    requests = [
        Img2ImgRequest(str(seed), smooth_image(1, 64, 64), "a cat", strength=0.8, num_inference_steps=5, seed=seed)
        for seed in range(3)
    ]
    images = run(make_engine(checkpoints(family)), requests)
    assert np.abs(images["0"].astype(int) - images["1"].astype(int)).mean() > 2
    assert np.abs(images["1"].astype(int) - images["2"].astype(int)).mean() > 2
