"""What latents look like, by a linear map: cheap enough for every step of every request that somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from PIL import Image

from deployments.engine.request import Pixels

SAMPLE_SIDE = 16  # latents of the image that the map is fitted to
PATCHES = 6


class LatentColours:
    """Latents (channels, h, w) to RGB (h, w, 3): colour = latents W + b, with `factors` (channels + 1, 3)."""

    def __init__(self, factors: torch.Tensor) -> None:
        self._factors = factors

    @classmethod
    def fitted(
        cls,
        factor: int,
        encode: Callable[[Pixels], torch.Tensor],
        decode: Callable[[torch.Tensor], list[Callable[[], Pixels]]],
    ) -> Self:
        """The map of one VAE, by least squares on the latents of one image of smooth random colours.

        Published tables of such factors hold for one VAE each.
        """
        side = SAMPLE_SIDE * factor
        patches = np.random.default_rng(0).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
        latents = encode(np.array(Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)))
        decoded = Image.fromarray(decode(latents[None])[0]())
        colours = np.asarray(decoded.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BOX), np.float32)
        return cls(torch.linalg.lstsq(_features(latents), torch.from_numpy(colours).reshape(-1, 3)).solution)

    def __call__(self, latents: torch.Tensor) -> Pixels:
        height, width = latents.shape[1:]
        colours = _features(latents) @ self._factors
        return np.asarray(colours.clamp(0, 255).round().to(torch.uint8).reshape(height, width, 3))


def _features(latents: torch.Tensor) -> torch.Tensor:
    """(pixels, channels + 1), with a column of ones."""
    flat = latents.detach().float().cpu().flatten(1).T
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
