"""Step tables against diffusers' own schedulers, each run alone as its img2img pipelines run it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

from deployments.engine.errors import InvalidRequest
from deployments.engine.models.samplers import SAMPLERS, Samplers
from deployments.engine.request import Sampler
from deployments.engine.sampling import CIN, StepTable, affine_step, guide

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
OLD = BETAS | {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": OLD | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None},
    "sd15 sample": OLD | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "prediction_type": "sample"},
    "sd2 v": OLD | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "zero snr v": OLD
    | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "sdxl": OLD
    | {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "timestep_spacing": "leading"},
}
DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2}
REFERENCES: dict[Sampler, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, DPMPP_2M | {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, DPMPP_2M | {"use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
STRENGTHS = (0.05, 0.3, 0.65, 1.0)
STEPS = (1, 2, 4, 14, 15, 30, 50)
SHAPE = (1, 4, 6, 5)
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * 0.9


def toy_unet(x: torch.Tensor, t: float) -> torch.Tensor:
    """Nonlinear in both, and as large as what a UNet gives."""
    return torch.tanh(0.7 * x + np.sin(t / 150)) + 0.3 * torch.cos(2 * x)


def usable(steps: int) -> Iterator[int]:
    """The numbers of steps that the strengths leave, each once."""
    yield from {int(steps * strength) for strength in STRENGTHS} - {0}


def run_diffusers(sampler: Sampler, config: dict[str, Any], steps: int, run: int) -> torch.Tensor:
    """The last `run` of `steps` by diffusers' scheduler, in the order of its img2img pipelines' calls."""
    scheduler_class, overrides = REFERENCES[sampler]
    # diffusers' ancestral sampler knows no x0-predicting models: it gets the noise that such an output implies.
    implied = sampler == "euler_ancestral" and config.get("prediction_type") == "sample"
    scheduler = scheduler_class.from_config(config, **overrides, **({"prediction_type": "epsilon"} if implied else {}))
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(SHAPE, generator=generator)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(steps - run)
    timesteps = scheduler.timesteps[steps - run :]
    x = scheduler.add_noise(IMAGE, noise, timesteps[:1])
    extra = {} if scheduler_class is DPMSolverMultistepScheduler else {"generator": generator}
    for i, t in enumerate(timesteps, steps - run):
        out = toy_unet(scheduler.scale_model_input(x, t), float(t))
        out = (x - out) / scheduler.sigmas[i] if implied else out
        x = scheduler.step(out, t, x, return_dict=False, **extra)[0]
    return x


def run_table(table: StepTable) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = table.alpha_sigma[0, 0] * IMAGE + table.alpha_sigma[0, 1] * torch.randn(SHAPE, generator=generator)
    history = torch.zeros(SHAPE)
    for i, row in enumerate(torch.from_numpy(table.coefficients)):
        out = toy_unet(row[CIN] * x, float(table.timesteps[i]))
        noise = torch.randn(SHAPE, generator=generator) if table.needs_noise(i) else None
        x, history = affine_step(x, out, history, noise, row[None])
    return x


def assert_same(sampler: Sampler, config: dict[str, Any], steps: int) -> None:
    for run in usable(steps):
        table = Samplers(config).table(sampler, steps, run)
        expected = run_diffusers(sampler, config, steps, run)
        assert len(table) == run
        assert torch.isfinite(expected).all()
        error = (run_table(table) - expected).abs().max() / expected.abs().max()
        # diffusers loses what float32 cannot hold beside its start noise, 4096 times the image with zero-SNR Euler.
        allowed = max(1e-5, 2 * torch.finfo(torch.float32).eps * float(table.alpha_sigma[0, 1]))
        assert error <= allowed, f"{run} of {steps} steps: off by {error:.1e}"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_steps_as_diffusers_does_alone(sampler: Sampler, config: str, steps: int) -> None:
    assert_same(sampler, CONFIGS[config], steps)


@pytest.mark.parametrize("steps", [4, 14, 15, 30])
@pytest.mark.parametrize(
    "variant",
    [
        {"solver_type": "heun"},
        {"solver_type": "bh2"},
        {"euler_at_final": True},
        {"lower_order_final": False},
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"timestep_spacing": "trailing", "solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_karras"])
def test_dpm_solver_follows_the_checkpoints_variant(sampler: Sampler, variant: dict[str, Any], steps: int) -> None:
    assert_same(sampler, CONFIGS["sd15"] | variant, steps)


@pytest.mark.parametrize(
    ("sampler", "variant"),
    [
        ("euler", {"use_karras_sigmas": True}),
        ("euler", {"final_sigmas_type": "sigma_min"}),
        ("euler", {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}),
        ("euler_ancestral", {"timestep_spacing": "trailing"}),
        ("ddim", {"set_alpha_to_one": True, "timestep_spacing": "linspace"}),
        ("lcm", {"timestep_scaling": 3.0, "original_inference_steps": 100}),
        ("lcm", {"set_alpha_to_one": True}),
    ],
    ids=str,
)
def test_sampler_follows_the_checkpoints_variant(sampler: Sampler, variant: dict[str, Any]) -> None:
    assert_same(sampler, CONFIGS["sd15"] | variant, 20)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping_made_for_pixels_stays_off(sampler: Sampler) -> None:
    clipping = CONFIGS["sd15"] | {"clip_sample": True, "clip_sample_range": 0.1, "thresholding": True}
    clipped, plain = (Samplers(config).table(sampler, 10, 5) for config in (clipping, CONFIGS["sd15"]))
    np.testing.assert_array_equal(clipped.coefficients, plain.coefficients)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sampler", SAMPLERS[:-1])
def test_any_number_of_steps_but_the_last_few_gives_finite_numbers(sampler: Sampler, config: str) -> None:
    samplers = Samplers(CONFIGS[config])
    for steps in (51, 150, 499, 500, 501, 900, 997):
        table = samplers.table(sampler, steps, steps)
        assert np.isfinite(table.coefficients).all()
        assert np.isfinite(table.timesteps).all()


@pytest.mark.parametrize(("sampler", "config"), [("dpmpp_2m", "sd15"), ("dpmpp_2m", "sdxl"), ("ddim", "sd15")])
def test_steps_too_many_to_tell_apart_are_refused(sampler: Sampler, config: str) -> None:
    with pytest.raises(InvalidRequest, match=f"must be below 1000 with sampler {sampler}") as caught:
        Samplers(CONFIGS[config]).table(sampler, 1000, 1000)
    assert caught.value.param == "num_inference_steps"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_than_the_model_was_trained_with_are_refused(sampler: Sampler) -> None:
    with pytest.raises(InvalidRequest, match=f"at most (50|1000) with sampler {sampler}, not 1001") as caught:
        Samplers(CONFIGS["sd15"]).table(sampler, 1001, 1001)
    assert caught.value.param == "num_inference_steps"


def test_lcm_refuses_more_steps_than_it_was_distilled_at() -> None:
    samplers = Samplers(LCMScheduler(**OLD).config)
    assert len(samplers.table("lcm", 50, 50)) == 50
    with pytest.raises(InvalidRequest, match="at most 50 .* not 51") as caught:
        samplers.table("lcm", 51, 1)
    assert caught.value.param == "num_inference_steps"


@pytest.mark.parametrize("sampler", sorted({*SAMPLERS} - {"lcm"}))
def test_other_samplers_of_an_lcm_checkpoint_keep_their_own_limit(sampler: Sampler) -> None:
    assert len(Samplers(LCMScheduler(**OLD).config).table(sampler, 60, 60)) == 60


def test_table_does_not_depend_on_the_scheduler_the_checkpoint_came_with() -> None:
    saved = [EulerDiscreteScheduler(**BETAS), DDIMScheduler(**BETAS), LCMScheduler(**BETAS)]
    tables = [Samplers(scheduler.config).table("dpmpp_2m_karras", 12, 12) for scheduler in saved]
    for table in tables[1:]:
        np.testing.assert_array_equal(table.coefficients, tables[0].coefficients)


def test_guidance_mixes_each_requests_own_rows() -> None:
    outputs = torch.randn(5, 4, 2, 2)  # two unconditional rows, then conditional ones: guided, guided, unguided
    guided = guide(outputs, 2, torch.tensor([7.5, 2.0, 3.0]))
    torch.testing.assert_close(guided[0], outputs[0] + 7.5 * (outputs[2] - outputs[0]))
    torch.testing.assert_close(guided[1], 2 * outputs[3] - outputs[1])
    assert torch.equal(guided[2], outputs[4])


def test_requests_of_different_samplers_at_different_steps_share_one_step() -> None:
    samplers = Samplers(CONFIGS["sd15"])
    rows = [samplers.table(sampler, 20, 10 + i).coefficients[i] for i, sampler in enumerate(SAMPLERS)]
    coefficients = torch.from_numpy(np.stack(rows))
    x, out, history, noise = torch.randn(4, len(rows), *SHAPE[1:], generator=torch.Generator().manual_seed(3))
    together = affine_step(x, out, history, noise, coefficients)
    for i in range(len(rows)):
        one = slice(i, i + 1)
        alone = affine_step(x[one], out[one], history[one], noise[one], coefficients[one])
        for mixed, single in zip(together, alone, strict=True):
            assert torch.equal(mixed[one], single)
