"""Scheduler configurations of odd checkpoints give diffusers' steps, or a refusal that tells the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.engine.errors import InvalidRequest
from deployments.engine.models.samplers import SAMPLERS, Samplers
from deployments.engine.request import Sampler

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ZERO_SNR = SD15 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("other", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_karras_sigmas_are_karras_whatever_sigmas_the_checkpoint_prefers(other: str) -> None:
    preferring, plain = (Samplers(config).table("dpmpp_2m_karras", 20, 10) for config in (SD15 | {other: True}, SD15))
    assert np.array_equal(preferring.coefficients, plain.coefficients)


@pytest.mark.parametrize(
    "odd",
    [
        {"timestep_spacing": "none such"},
        {"use_karras_sigmas": True, "use_exponential_sigmas": True},
        {"interpolation_type": "none such"},
    ],
)
def test_schedule_that_diffusers_refuses_is_an_invalid_sampler(odd: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="sampler euler cannot run this checkpoint's schedule: ") as caught:
        Samplers(SD15 | odd).table("euler", 20, 10)
    assert caught.value.param == "sampler"


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
@pytest.mark.parametrize("steps", [4, 20])
def test_epsilon_of_noise_alone_is_refused_by_strength_and_not_by_steps(sampler: Sampler, steps: int) -> None:
    samplers = Samplers(ZERO_SNR)
    with pytest.raises(InvalidRequest, match="strength must be below 1 with this sampler") as caught:
        samplers.table(sampler, steps, steps)
    assert caught.value.param == "strength"
    assert np.isfinite(samplers.table(sampler, steps, steps - 1).coefficients).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_v_prediction_starts_from_noise_alone(sampler: Sampler) -> None:
    table = Samplers(ZERO_SNR | {"prediction_type": "v_prediction"}).table(sampler, 20, 20)
    assert np.isfinite(table.coefficients).all()
