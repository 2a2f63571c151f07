"""What latents look like, by a linear map: cheap enough for every step of every request that somebody watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from deployments.engine.request import Pixels

if TYPE_CHECKING:
    from deployments.engine.models.vae import ImageCodec

SAMPLE_SIDE = 16  # latents of the picture that the map is fitted to
PATCHES = 6


class LatentColours:
    """Latents (channels, h, w) to RGB (h, w, 3): colour = latents W + b, fitted to the checkpoint's own VAE.

    By least squares on the latents of one picture of smooth random colours and what they are decoded to. The
    published tables of such factors hold for one VAE each.
    """

    def __init__(self, codec: ImageCodec) -> None:
        side = SAMPLE_SIDE * codec.factor
        patches = np.random.default_rng(0).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
        picture = Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)
        latents = codec.mean(codec.encode([np.array(picture)])[0])
        decoded = Image.fromarray(codec.decode(latents[None])[0].pixels())
        colours = np.asarray(decoded.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BOX), np.float32)
        self._factors = torch.linalg.lstsq(_features(latents), torch.from_numpy(colours).reshape(-1, 3)).solution

    def __call__(self, latents: torch.Tensor) -> Pixels:
        height, width = latents.shape[1:]
        colours = _features(latents) @ self._factors
        return np.asarray(colours.clamp(0, 255).round().to(torch.uint8).reshape(height, width, 3))


def _features(latents: torch.Tensor) -> torch.Tensor:
    """(pixels, channels + 1), with a column of ones."""
    flat = latents.detach().float().cpu().flatten(1).T
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
