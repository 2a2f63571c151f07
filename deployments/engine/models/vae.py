"""Pixels to latents and back through the VAE, in batches, each picture encoded once (LRU)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from deployments.engine.errors import NumericalError
from deployments.engine.models.devices import VaeDtypes, one_thread
from deployments.engine.networks import eager_vae
from deployments.engine.request import Pixels
from deployments.engine.transfers import ToHost, to_device

MAX_CACHED_IMAGES = 64
MAX_BATCH_PIXELS = 4 * 512 * 512  # of one VAE call: its activations take about 0.5 GB a megapixel
T = TypeVar("T")


class ImageCodec:
    """The VAE of one checkpoint. `one_by_one` keeps one batch shape, for results that do not depend on company.

    `networks` are the form that it runs in; another may be put there.
    """

    def __init__(self, vae: Any, *, device: torch.device, dtypes: VaeDtypes, one_by_one: bool) -> None:
        self.networks = eager_vae(vae)
        self._vae = vae
        self._device = device  # not the VAE's own: offloaded weights come to it, inputs do not
        self._dtypes = dtypes
        self._one_by_one = one_by_one
        self._cache: LRUCache[bytes, torch.Tensor] = LRUCache(MAX_CACHED_IMAGES)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.hits = self.misses = 0

    def encode(self, images: Sequence[Pixels], keys: Sequence[bytes] = ()) -> list[torch.Tensor]:
        """The encoder's output for images of one shape (h, w, 3): posterior moments, or a VAE without one's latents.

        `keys` are the images' (`picture_key`), where they are known already.
        """
        keys = keys or [picture_key(image) for image in images]
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in self._cache}
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        found = {key: self._cache[key] for key in keys if key in self._cache}
        for chunk in self._chunks(list(missing.items()), images[0].size // 3):
            pixels = to_device(torch.from_numpy(np.stack([image for _, image in chunk])), self._device)
            with one_thread(self.networks.own_threads):
                inputs = (pixels.permute(0, 3, 1, 2).float() / 255 * 2 - 1).to(self._dtypes.encoder)
                moments = self.networks.encode(inputs)
            found.update((key, row.clone()) for (key, _), row in zip(chunk, moments, strict=True))
        self._cache.update((key, found[key]) for key in keys)
        return [found[key] for key in keys]

    def sample(self, moments: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents (channels, h, w), scaled for the UNet, drawn from the posterior by the request's generator."""
        config = self._vae.config
        latents = moments[None]
        if moments.shape[0] == 2 * config.latent_channels:
            posterior = DiagonalGaussianDistribution(latents)
            noise = torch.randn(posterior.mean.shape, generator=generator, dtype=latents.dtype)  # as its sample() draws
            latents = posterior.mean + posterior.std * to_device(noise, latents.device)
        return self._normalize(latents)[0]

    def mean(self, moments: torch.Tensor) -> torch.Tensor:
        """Latents as `sample` gives them, without chance: the posterior's mean."""
        channels: int = self._vae.config.latent_channels
        return self._normalize(moments[None, :channels])[0]

    def decode(self, latents: torch.Tensor) -> list[Decoded]:
        """Latents (n, channels, h, w) to n images, which on CUDA are still to come."""
        images: list[Decoded] = []
        pixels = latents[0, 0].numel() * self.factor**2
        for chunk in self._chunks(list(self._denormalize(latents)), pixels):
            with one_thread(self.networks.own_threads):
                shown = _show(self.networks.decode(torch.stack(chunk).to(self._device, self._dtypes.decoder)))
            images.extend(Decoded(self, row, shown, i) for i, row in enumerate(chunk))
        return images

    def decode_exactly(self, latents: torch.Tensor) -> ToHost:
        """Once more in float32: half precision overflows in some VAEs (SDXL's first release)."""
        weights = [(weight, weight.data) for weight in self._vae.parameters()]
        self._vae.to(torch.float32)
        shown = _show(eager_vae(self._vae).decode(latents.float()))
        for weight, data in weights:  # the very same memory, which CUDA graphs read
            weight.data = data
        return shown

    def _normalize(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(latents)
        scale: float = self._vae.config.scaling_factor
        return (latents - mean) * scale / std

    def _denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(latents)
        scale: float = self._vae.config.scaling_factor
        return latents * std / scale + mean

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        mean, std = (getattr(self._vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return 0.0, 1.0
        mean, std = (torch.tensor(values).to(latents).view(1, -1, 1, 1) for values in (mean, std))
        return mean, std

    def _chunks(self, items: list[T], pixels: int) -> Iterator[list[T]]:
        """Batches small enough for the memory, of items that have `pixels` pixels each."""
        size = 1 if self._one_by_one else max(1, MAX_BATCH_PIXELS // pixels)
        for start in range(0, len(items), size):
            yield items[start : start + size]


def picture_key(image: Pixels) -> bytes:
    """What tells this picture from all others. Takes a millisecond for 512 x 512 pixels."""
    return hashlib.sha256(image.tobytes() + repr(image.shape).encode()).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Image `index` of those `shown`, and the latents that it came from, as the VAE took them."""

    codec: ImageCodec
    latents: torch.Tensor
    shown: ToHost
    index: int

    def pixels(self) -> Pixels:
        """uint8 (h, w, 3), once they are there. Raises NumericalError rather than give a black image."""
        images, are_finite = self.shown.wait()
        if not are_finite[self.index]:
            return self._exact_pixels()
        return images[self.index].numpy()

    def _exact_pixels(self) -> Pixels:
        if not torch.isfinite(self.latents).all():
            raise NumericalError("the UNet produced NaN or infinite values for this image")
        (image,), (is_finite,) = self.codec.decode_exactly(self.latents[None]).wait()
        if not is_finite:
            raise NumericalError("the VAE decoded this image to NaN or infinite values")
        return image.numpy()  # type: ignore[no-any-return]


def _show(decoded: torch.Tensor) -> ToHost:
    """What a VAE decoded (n, 3, h, w), on its way: images (n, h, w, 3) and whether each is finite, (n,)."""
    pixels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return ToHost(pixels.permute(0, 2, 3, 1).contiguous(), torch.isfinite(decoded).flatten(1).all(dim=1))
