"""One step of any sampler, for all requests at once: linear maps with coefficients from a table.

A step takes latents x and the guided output of the denoiser `out`, both (requests, channels, h, w), and the previous
step's m0 as m1:

    m0 = P x + Q out                    the denoised latents ("x0 prediction")
    x' = A x + B m0 + C m1 + D noise

Latents, outputs and coefficients are float32. Families compute the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

CIN, P, Q, A, B, C, D = range(7)  # columns of a coefficient row; CIN scales the denoiser's input


@dataclass(frozen=True, slots=True, eq=False)
class StepTable:
    """All numbers that one request's denoising needs: `timesteps` (steps,), `coefficients` (steps, 7), float32.

    `alpha_sigma` (steps + 1, 2) are alpha and sigma before each step and after the last, (1, 0): at step i an image is
    noised to `alpha * image_latents + sigma * noise`.
    """

    alpha_sigma: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.float32]
    coefficients: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.timesteps)

    def needs_noise(self, step_index: int) -> bool:
        """Whether diffusers draws noise for this step (and the draw matters)."""
        return bool(self.coefficients[step_index, D] != 0)


def guide(outputs: torch.Tensor, num_guided: int, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): e[u] + scale (e[c] - e[u]), (requests, channels, h, w).

    `outputs` has the unconditional rows of the first `num_guided` requests, then every request's conditional row. An
    unguided request has its one row as both, which gives that row back exactly.
    """
    conditional = outputs[num_guided:]
    base = torch.cat([outputs[:num_guided], conditional[num_guided:]])
    return base + scale.view(-1, 1, 1, 1) * (conditional - base)


def affine_step(
    x: torch.Tensor, out: torch.Tensor, m1: torch.Tensor, noise: torch.Tensor | None, coefficients: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of any sampler: (x', m0). `coefficients` is (requests, 7); `noise` may be None where D is 0 for all."""
    _, p, q, a, b, c, d = (column.view(-1, 1, 1, 1) for column in coefficients.unbind(1))
    m0 = p * x + q * out
    stepped = a * x + b * m0 + c * m1
    return stepped if noise is None else stepped + d * noise, m0
