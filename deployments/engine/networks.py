"""The networks that a runner calls for every request, in one form: as torch runs them, or compiled.

All forms take and give the same tensors, so that one can take another's place between two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from deployments.engine.accel.cuda.graphs import Counters
    from deployments.engine.models.checkpoint import Checkpoint

UnetForward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class VaeNetworks(NamedTuple):
    """`encode`: pixels (n, 3, h, w) in [-1, 1] to the posterior's moments, or a VAE without one's latents.

    `decode`: latents (n, channels, h, w) to pixels. `own_threads`: they compute on threads of their own, and not on
    torch's.
    """

    encode: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    own_threads: bool = False


class Networks(NamedTuple):
    """All in one form, whose name is `form`. Tensors are in the checkpoint's formats and on its device.

    `unet`: latents (n, channels, h, w), times (n, all ResNets' channels) and context (n, tokens, all keys and values)
    to the output, like the latents; see HoistedUnet. Compiled forms know nothing of adapters.
    """

    form: str
    unet: UnetForward
    vae: VaeNetworks
    counters: Counters | None = None  # of those that record or compile
    own_threads: bool = False  # of the UNet


def eager(checkpoint: Checkpoint) -> Networks:
    """The networks as torch runs them."""
    return Networks("eager", checkpoint.unet, eager_vae(checkpoint.pipeline.vae))


def eager_vae(vae: Any) -> VaeNetworks:
    """A diffusers VAE's two halves as torch runs them."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        output = vae.encode(pixels)
        moments: torch.Tensor = output.latent_dist.parameters if hasattr(output, "latent_dist") else output.latents
        return moments

    def decode(latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels

    return VaeNetworks(encode, decode)
