"""The samplers' step tables, computed per request on the host in float64.

diffusers' schedulers give the time steps and sigmas. The update is ours, because a diffusers scheduler keeps a
step counter and so cannot serve two requests at different steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Sampler
from deployments.engine.sampling import StepTable

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class Samplers:
    """Step tables for one checkpoint, from its scheduler configuration as diffusers saved it."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        self.prediction_type: str = scheduler_config.get("prediction_type", "epsilon")
        self._config = scheduler_config
        self.table = lru_cache(maxsize=512)(self._build)

    def _build(self, sampler: Sampler, num_inference_steps: int, num_denoise_steps: int) -> StepTable:
        """The table of the last `num_denoise_steps` of `num_inference_steps`. Raises InvalidRequest."""
        if sampler not in _SAMPLERS:
            raise InvalidRequest(f"sampler must be one of {', '.join(SAMPLERS)}", "sampler")
        scheduler_class, overrides, build_table = _SAMPLERS[sampler]
        try:
            scheduler = scheduler_class.from_config(self._config, **overrides)
            # A model is LCM-distilled at certain time steps, and has no more to choose from.
            distilled = isinstance(scheduler, LCMScheduler)
            most = scheduler.config["original_inference_steps" if distilled else "num_train_timesteps"]
            if num_inference_steps > most:
                message = f"must be at most {most} with sampler {sampler}, not {num_inference_steps}"
                raise InvalidRequest(f"num_inference_steps {message}", "num_inference_steps")
            scheduler.set_timesteps(num_inference_steps)
            return build_table(scheduler, num_inference_steps - num_denoise_steps, self.prediction_type)
        except (ZeroDivisionError, IndexError) as exc:  # near the most, rounding makes steps empty or unknown
            message = f"num_inference_steps must be below {num_inference_steps} with sampler {sampler}"
            raise InvalidRequest(message, "num_inference_steps") from exc
        except (ImportError, ValueError) as exc:  # diffusers' refusal of the configuration
            raise InvalidRequest(f"sampler {sampler} cannot run this checkpoint's schedule: {exc}", "sampler") from exc


def _to_denoised(prediction_type: str, alpha: float, sigma: float) -> tuple[float, float]:
    """P and Q for latents x = alpha x0 + sigma noise (Salimans & Ho 2022, appendix D)."""
    if prediction_type == "epsilon":
        if alpha == 0:  # the schedule has zero terminal SNR
            message = "strength must be below 1 with this sampler: the checkpoint's schedule begins with noise alone"
            raise InvalidRequest(message, "strength")
        return 1 / alpha, -sigma / alpha
    if prediction_type == "v_prediction":
        return alpha, -sigma
    return 0.0, 1.0


def _table(
    alpha_sigma: Sequence[tuple[float, float]], timesteps: torch.Tensor, rows: Sequence[tuple[float, ...]]
) -> StepTable:
    """`alpha_sigma` are those of the steps; in the end there is no noise."""
    every_timestep = timesteps.numpy().astype(np.float32)
    with_end = np.array([*alpha_sigma, (1.0, 0.0)], dtype=np.float32)
    return StepTable(with_end, every_timestep[len(timesteps) - len(rows) :], np.array(rows, dtype=np.float32))


def _dpmpp_2m(scheduler: Any, first: int, prediction_type: str) -> StepTable:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2, with diffusers' rules for the first and last steps."""
    config, sigmas = scheduler.config, scheduler.sigmas.double().tolist()
    count = len(scheduler.timesteps)
    alphas = [1 / math.sqrt(sigma**2 + 1) for sigma in sigmas]
    stds = [sigma * alpha for sigma, alpha in zip(sigmas, alphas, strict=True)]
    lambdas = [math.log(a) - math.log(s) if s else math.inf for a, s in zip(alphas, stds, strict=True)]
    euler_last = config.euler_at_final or (config.lower_order_final and count < 15) or sigmas[-1] == 0
    rows = []
    for i in range(first, count):
        p, q = _to_denoised(prediction_type, alphas[i], stds[i])
        if sigmas[i + 1] == 0:
            rows.append((1.0, p, q, 0.0, 1.0, 0.0, 0.0))
            continue
        h = lambdas[i + 1] - lambdas[i]
        b, c = -alphas[i + 1] * math.expm1(-h), 0.0
        if i > first and not (i == count - 1 and euler_last):
            heun = config.solver_type == "heun"
            c = -(alphas[i + 1] * (math.expm1(-h) + h) if heun else b * h / 2) / (lambdas[i] - lambdas[i - 1])
        rows.append((1.0, p, q, stds[i + 1] / stds[i], b - c, c, 0.0))
    return _table(list(zip(alphas, stds, strict=True))[first:count], scheduler.timesteps, rows)


def _euler(scheduler: Any, first: int, prediction_type: str) -> StepTable:
    """Euler's method, Karras et al. 2022, algorithm 2 without churn; ancestral noise after k-diffusion."""
    sigmas = scheduler.sigmas.double().tolist()
    ancestral = isinstance(scheduler, EulerAncestralDiscreteScheduler)
    rows = []
    for sigma, sigma_next in zip(sigmas[first:], sigmas[first + 1 :], strict=False):
        up = math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) if ancestral else 0.0
        down = math.sqrt(sigma_next**2 - up**2)
        cin = 1 / math.sqrt(sigma**2 + 1)
        p, q = _to_denoised(prediction_type, cin, sigma * cin)
        # These latents are not scaled by alpha: x = x0 + sigma noise, so P takes another factor of cin.
        rows.append((cin, p * cin, q, down / sigma, 1 - down / sigma, 0.0, up))
    return _table([(1.0, sigma) for sigma in sigmas[first:-1]], scheduler.timesteps, rows)


def _ddim(scheduler: Any, first: int, prediction_type: str) -> StepTable:
    """DDIM, Song et al. 2020, eq. 12 with eta = 0."""
    cumulated, timesteps = scheduler.alphas_cumprod.double().tolist(), scheduler.timesteps.tolist()
    stride = scheduler.config.num_train_timesteps // len(timesteps)
    rows = []
    for t in timesteps[first:]:
        before = t - stride
        a, a_next = cumulated[t], cumulated[before] if before >= 0 else float(scheduler.final_alpha_cumprod)
        p, q = _to_denoised(prediction_type, math.sqrt(a), math.sqrt(1 - a))
        keep = math.sqrt((1 - a_next) / (1 - a))
        rows.append((1.0, p, q, keep, math.sqrt(a_next) - keep * math.sqrt(a), 0.0, 0.0))
    return _table([_variance_preserving(cumulated[t]) for t in timesteps[first:]], scheduler.timesteps, rows)


def _lcm(scheduler: Any, first: int, prediction_type: str) -> StepTable:
    """Latent consistency sampling, Luo et al. 2023, algorithm 3."""
    cumulated, timesteps = scheduler.alphas_cumprod.double().tolist(), scheduler.timesteps.tolist()
    rows = []
    for i, t in enumerate(timesteps[first:], first):
        p, q = _to_denoised(prediction_type, math.sqrt(cumulated[t]), math.sqrt(1 - cumulated[t]))
        c_skip, c_out = map(float, scheduler.get_scalings_for_boundary_condition_discrete(t))
        a_next = cumulated[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0
        alpha_next = math.sqrt(a_next)
        rows.append((1.0, p, q, alpha_next * c_skip, alpha_next * c_out, 0.0, math.sqrt(1 - a_next)))
    return _table([_variance_preserving(cumulated[t]) for t in timesteps[first:]], scheduler.timesteps, rows)


def _variance_preserving(alpha_cumprod: float) -> tuple[float, float]:
    return math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod)


# Latents have no natural range, so the clipping that some configurations carry from pixel models stays off.
_UNCLIPPED = {"clip_sample": False, "thresholding": False}
_DPMPP = {"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": False}
_KARRAS = {"use_karras_sigmas": True, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_TableBuilder = Callable[[Any, int, str], StepTable]
_SAMPLERS: dict[Sampler, tuple[Any, dict[str, Any], _TableBuilder]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {**_DPMPP, "use_karras_sigmas": False}, _dpmpp_2m),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {**_DPMPP, **_KARRAS}, _dpmpp_2m),
    "euler": (EulerDiscreteScheduler, {}, _euler),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}, _euler),
    "ddim": (DDIMScheduler, _UNCLIPPED, _ddim),
    "lcm": (LCMScheduler, _UNCLIPPED, _lcm),
}
SAMPLERS: tuple[Sampler, ...] = tuple(_SAMPLERS)
