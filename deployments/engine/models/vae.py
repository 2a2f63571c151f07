"""A diffusers VAE as the engine's image codec: images to noised start latents, latents to images, each image once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from deployments.engine.errors import NumericalError
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.preview import LatentColours
from deployments.engine.networks import BackendSlot, TensorFunction
from deployments.engine.request import MASK_THRESHOLD, Pixels
from deployments.engine.state import DenoiseState, InpaintSource
from deployments.engine.transfers import ToHost, one_thread, to_device

MAX_CACHED_IMAGES = 64
MAX_BATCH_PIXELS = 4 * 512 * 512  # of one VAE call: its activations take about 0.5 GB a megapixel
T = TypeVar("T")


class VaeCodec:
    """The VAE of one checkpoint; its halves run on the slot's backend. Noise is drawn in `dtype`, as diffusers does.

    `batch_invariant` encodes and decodes one image at a time, for results that are bitwise independent of batch
    composition.
    """

    def __init__(self, checkpoint: Checkpoint, slot: BackendSlot, *, batch_invariant: bool) -> None:
        self._vae = checkpoint.pipeline.vae
        self._slot = slot
        self._device = checkpoint.device  # not the VAE's own: offloaded weights come to it, inputs do not
        self._dtype, self._dtypes = checkpoint.dtype, checkpoint.vae_dtypes
        self._batch_invariant = batch_invariant
        self._cache: LRUCache[bytes, torch.Tensor] = LRUCache(MAX_CACHED_IMAGES)
        self._colours: LatentColours | None = None
        self.factor: int = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.hits = self.misses = 0

    def image_key(self, image: Pixels) -> bytes:
        """What tells this image from all others. Takes a millisecond for 512 x 512 pixels."""
        return hashlib.sha256(image.tobytes() + repr(image.shape).encode()).digest()

    def encode(self, states: Sequence[DenoiseState]) -> None:
        """Noised start latents for states of one shape; draws in diffusers' order: VAE posterior, then noise."""
        moments = self.moments([state.request.pixels for state in states], [state.image_key for state in states])
        for state, moment in zip(states, moments, strict=True):
            state.generator = torch.Generator("cpu").manual_seed(state.request.seed)
            image = self.sample(moment, state.generator).to(self._dtype).float()
            noise = self._draw(state.generator, image.shape)
            alpha, sigma = state.table.alpha_sigma[0].tolist()
            state.latents = alpha * image + sigma * noise
            state.history = torch.zeros_like(state.latents)
            if state.request.mask is not None:
                state.source = InpaintSource(image, noise, self._latent_mask(state))

    def draw_noise(self, state: DenoiseState) -> torch.Tensor:
        """The noise of a step, (channels, h, w) float32."""
        assert state.generator is not None, "encode() comes before denoise_step()"
        assert state.latents is not None, "encode() comes before denoise_step()"
        return self._draw(state.generator, state.latents.shape)

    def moments(self, images: Sequence[Pixels], keys: Sequence[bytes]) -> list[torch.Tensor]:
        """The encoder's output for images of one shape (h, w, 3): posterior moments, or latents without a posterior."""
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in self._cache}
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        found = {key: self._cache[key] for key in keys if key in self._cache}
        for chunk in self._chunks(list(missing.items()), images[0].size // 3):
            pixels = to_device(torch.from_numpy(np.stack([image for _, image in chunk])), self._device)
            inputs = (pixels.permute(0, 3, 1, 2).float() / 255 * 2 - 1).to(self._dtypes.encoder)
            backend = self._slot.backend
            with one_thread(backend.owns_threads):
                encoded = backend.encode(inputs)
            found.update((key, row.clone()) for (key, _), row in zip(chunk, encoded, strict=True))
        self._cache.update((key, found[key]) for key in keys)
        return [found[key] for key in keys]

    def sample(self, moments: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents (channels, h, w), scaled for the denoiser, drawn from the posterior by the request's generator."""
        latents = moments[None]
        if moments.shape[0] == 2 * self._vae.config.latent_channels:
            posterior = DiagonalGaussianDistribution(latents)
            noise = torch.randn(posterior.mean.shape, generator=generator, dtype=latents.dtype)  # as its sample() draws
            latents = posterior.mean + posterior.std * to_device(noise, latents.device)
        return self._normalize(latents)[0]

    def decode(self, latents: torch.Tensor) -> list[Callable[[], Pixels]]:
        """Latents (n, channels, h, w) to n images, which on CUDA are still to come."""
        images: list[Callable[[], Pixels]] = []
        pixels = latents[0, 0].numel() * self.factor**2
        for chunk in self._chunks(list(self._denormalize(latents)), pixels):
            backend = self._slot.backend
            with one_thread(backend.owns_threads):
                decoded = _to_host(backend.decode(torch.stack(chunk).to(self._device, self._dtypes.decoder)))
            images.extend(partial(self._fetch, decoded, i, row) for i, row in enumerate(chunk))
        return images

    def preview(self, latents: torch.Tensor) -> Pixels:
        """What latents (channels, h, w) look like, (h, w, 3)."""
        if self._colours is None:  # only where somebody watches
            self._colours = LatentColours.fitted(self.factor, self._mean_latents, self.decode)
        return self._colours(latents)

    def _fetch(self, decoded: ToHost, index: int, latents: torch.Tensor) -> Pixels:
        """One decoded image, uint8 (h, w, 3). Raises NumericalError rather than give a black image."""
        images, are_finite = decoded.wait()
        if are_finite[index]:
            return images[index].numpy()
        if not torch.isfinite(latents).all():
            raise NumericalError("the denoiser produced NaN or infinite values for this image")
        (image,), (is_finite,) = self.decode_in_float32(latents[None]).wait()
        if not is_finite:
            raise NumericalError("the VAE decoded this image to NaN or infinite values")
        return image.numpy()  # type: ignore[no-any-return]

    def decode_in_float32(self, latents: torch.Tensor) -> ToHost:
        """Decode once more in float32: half precision overflows in some VAEs (SDXL's first release)."""
        weights = [(weight, weight.data) for weight in self._vae.parameters()]
        try:
            self._vae.to(torch.float32)
            return _to_host(vae_decoder(self._vae)(latents.float()))
        finally:
            for weight, data in weights:  # the very same memory, which CUDA graphs read
                weight.data = data

    def _mean_latents(self, image: Pixels) -> torch.Tensor:
        """Latents (channels, h, w) without chance: the posterior's mean."""
        (moments,) = self.moments([image], [self.image_key(image)])
        return self._normalize(moments[None, : self._vae.config.latent_channels])[0]

    def _draw(self, generator: torch.Generator, shape: torch.Size) -> torch.Tensor:
        """Noise as diffusers draws it: on the CPU, in the checkpoint's dtype."""
        noise = torch.randn((1, *shape), generator=generator, dtype=self._dtype)
        return to_device(noise[0], self._device).float()

    def _latent_mask(self, state: DenoiseState) -> torch.Tensor:
        """(1, h, w), 1 where the image may change; scaled down as diffusers' inpainting pipelines do it."""
        mask = torch.from_numpy(np.asarray(state.request.mask) >= MASK_THRESHOLD).float()[None, None]
        return to_device(torch.nn.functional.interpolate(mask, state.latent_shape)[0], self._device)

    def _normalize(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) * float(self._vae.config.scaling_factor) / std

    def _denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(latents)
        return latents * std / float(self._vae.config.scaling_factor) + mean

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        mean, std = (getattr(self._vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return 0.0, 1.0
        mean, std = (torch.tensor(values).to(latents).view(1, -1, 1, 1) for values in (mean, std))
        return mean, std

    def _chunks(self, items: list[T], pixels: int) -> Iterator[list[T]]:
        """Batches that fit in memory, of items with `pixels` pixels each."""
        size = 1 if self._batch_invariant else max(1, MAX_BATCH_PIXELS // pixels)
        for start in range(0, len(items), size):
            yield items[start : start + size]


def vae_encoder(vae: Any) -> TensorFunction:
    """Pixels (n, 3, h, w) in [-1, 1] to posterior moments, or a VAE without a posterior's latents."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        output = vae.encode(pixels)
        moments: torch.Tensor = output.latent_dist.parameters if hasattr(output, "latent_dist") else output.latents
        return moments

    return encode


def vae_decoder(vae: Any) -> TensorFunction:
    """Latents (n, channels, h, w) to pixels in [-1, 1]."""
    return lambda latents: vae.decode(latents, return_dict=False)[0]


def _to_host(decoded: torch.Tensor) -> ToHost:
    """Decoded pixels (n, 3, h, w) as images (n, h, w, 3), uint8, and whether each is finite, (n,)."""
    pixels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return ToHost(pixels.permute(0, 2, 3, 1).contiguous(), torch.isfinite(decoded).flatten(1).all(dim=1))
