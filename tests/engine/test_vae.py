"""Images to latents and back as diffusers does it, each image encoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionImg2ImgPipeline
from PIL import Image

from deployments.engine.errors import NumericalError
from deployments.engine.models.checkpoint import Checkpoint
from deployments.engine.models.devices import VaeDtypes
from deployments.engine.models.lora import LoadedLoras
from deployments.engine.models.stable_diffusion import StableDiffusion
from deployments.engine.models.vae import MAX_BATCH_PIXELS, MAX_CACHED_IMAGES, VaeCodec, vae_decoder, vae_encoder
from deployments.engine.networks import Backend, BackendSlot
from deployments.engine.request import Img2ImgRequest, Pixels
from tests.support.reference import Reference, make_engine, run, smooth_image
from training.pipelines import UNET, make_pipeline, sd15_scheduler
from training.tiny import make_vae


def codec_of(vae: Any, dtype: torch.dtype = torch.float32, *, batch_invariant: bool = False) -> VaeCodec:
    slot = BackendSlot(Backend("eager", torch.neg, vae_encoder(vae), vae_decoder(vae)))
    pipeline, dtypes = SimpleNamespace(vae=vae), VaeDtypes(dtype, dtype)
    loras = LoadedLoras(pipeline, {})
    checkpoint = Checkpoint(StableDiffusion.kind, pipeline, torch.device("cpu"), dtype, dtypes, loras)
    return VaeCodec(checkpoint, slot, batch_invariant=batch_invariant)


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    return make_vae().eval()


@torch.inference_mode()
def encoded(codec: VaeCodec, *images: Pixels) -> list[torch.Tensor]:
    return codec.moments(images, [codec.image_key(image) for image in images])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_latents_are_those_of_the_diffusers_pipeline(vae: Any) -> None:
    pipeline = make_pipeline(sd15_scheduler(), UNET)
    pixels = pipeline.image_processor.preprocess(Image.fromarray(image := smooth_image(1, 64, 48)))
    with torch.inference_mode():
        expected = vae.encode(pixels).latent_dist.sample(seeded(5)) * vae.config.scaling_factor
    codec = codec_of(vae)
    (moments,) = encoded(codec, image)
    assert torch.equal(codec.sample(moments, seeded(5)), expected[0])


def test_decoded_image_is_that_of_the_diffusers_pipeline(vae: Any) -> None:
    latents = torch.randn(1, 4, 6, 8, generator=seeded(1))
    pipeline = make_pipeline(sd15_scheduler(), UNET)
    with torch.inference_mode():
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        pixels = codec_of(vae).decode(latents)[0]()
    (expected,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
    np.testing.assert_array_equal(pixels, np.array(expected))
    assert pixels.dtype == np.uint8


def test_seeds_draw_their_own_latents_from_moments_computed_once(vae: Any) -> None:
    codec = codec_of(vae)
    (first,), (second,) = encoded(codec, smooth_image(1, 64, 64)), encoded(codec, smooth_image(1, 64, 64))
    assert first is second
    assert (codec.hits, codec.misses) == (1, 1)
    draws = [codec.sample(first, seeded(seed)) for seed in (1, 2, 1)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_same_image_twice_in_one_batch_is_encoded_once(vae: Any) -> None:
    codec = codec_of(vae)
    moments = encoded(codec, smooth_image(1, 64, 64), smooth_image(2, 64, 64), smooth_image(1, 64, 64))
    assert moments[0] is moments[2]
    assert (codec.hits, codec.misses) == (1, 2)


def test_images_of_the_same_bytes_and_another_shape_are_not_confused(vae: Any) -> None:
    codec = codec_of(vae)
    flat = smooth_image(1, 64, 32)
    (wide,), (tall,) = encoded(codec, flat), encoded(codec, flat.reshape(64, 32, 3))
    assert codec.hits == 0
    assert (wide.shape[1:], tall.shape[1:]) == ((4, 8), (8, 4))


def test_image_that_is_no_contiguous_array_is_the_same_image(vae: Any) -> None:
    codec = codec_of(vae)
    image = smooth_image(1, 64, 64)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert encoded(codec, image[:, ::-1])[0] is encoded(codec, mirrored)[0]


def test_one_image_does_not_keep_its_whole_batch_in_memory(vae: Any) -> None:
    (moments, _) = encoded(codec_of(vae), smooth_image(1, 64, 64), smooth_image(2, 64, 64))
    assert moments.untyped_storage().nbytes() == moments.nbytes


def test_cache_keeps_the_images_used_last(vae: Any) -> None:
    codec = codec_of(vae)
    small = [smooth_image(seed, 16, 16) for seed in range(MAX_CACHED_IMAGES + 1)]
    encoded(codec, *small[:-1])
    encoded(codec, small[0])
    encoded(codec, small[-1])
    assert codec.misses == MAX_CACHED_IMAGES + 1
    encoded(codec, small[0])
    assert codec.misses == MAX_CACHED_IMAGES + 1
    encoded(codec, small[1])
    assert codec.misses == MAX_CACHED_IMAGES + 2


@pytest.mark.parametrize(("batch_invariant", "sizes"), [(False, [3]), (True, [1, 1, 1])])
def test_images_are_encoded_together_or_at_one_batch_shape(vae: Any, batch_invariant: bool, sizes: list[int]) -> None:
    seen: list[int] = []
    handle = vae.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    encoded(codec_of(vae, batch_invariant=batch_invariant), *(smooth_image(seed, 32, 32) for seed in range(3)))
    handle.remove()
    assert seen == sizes


def test_one_call_decodes_no_more_pixels_than_its_memory_allows(vae: Any) -> None:
    seen: list[int] = []

    def hook(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(inputs[0]) * inputs[0][0, 0].numel() * 64)

    side = 8 * 80  # 640 pixels: two fit
    handle = vae.decoder.register_forward_pre_hook(hook)
    with torch.inference_mode():
        images = codec_of(vae).decode(torch.zeros(3, 4, side // 8, side // 8))
    handle.remove()
    assert seen == [2 * side**2, side**2]
    assert max(seen) <= MAX_BATCH_PIXELS
    assert [image().shape for image in images] == [(side, side, 3)] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_image_that_is_no_number_raises_and_its_neighbour_is_fine(vae: Any, value: float) -> None:
    latents = torch.randn(2, 4, 4, 4, generator=seeded(1))
    latents[1, 2, 3, 0] = value
    with torch.inference_mode():
        fine, broken = codec_of(vae).decode(latents)
        with pytest.raises(NumericalError, match="NaN or infinite"):
            broken()
        np.testing.assert_array_equal(fine(), codec_of(vae).decode(latents[:1])[0]())


def test_vae_that_overflows_in_half_precision_decodes_in_float32() -> None:
    torch.manual_seed(0)
    vae = make_vae().eval()
    with torch.no_grad():
        vae.decoder.conv_in.weight *= 1e5  # beyond float16; the normalisation behind it brings it back
    latents = torch.randn(1, 4, 4, 4, generator=seeded(1))
    with torch.inference_mode():
        expected = codec_of(vae).decode(latents)[0]()
        half = vae.to(torch.float16)
        assert not torch.isfinite(half.decode(latents.half()).sample).all()
        before = [(weight.dtype, weight.data_ptr()) for weight in half.parameters()]
        pixels = codec_of(half, torch.float16).decode(latents)[0]()
    # A CUDA graph goes on reading its weights where they were.
    assert [(weight.dtype, weight.data_ptr()) for weight in half.parameters()] == before
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_vae_that_fails_in_float32_keeps_its_dtype_and_memory() -> None:
    half = make_vae().eval().to(torch.float16)
    before = [(weight.dtype, weight.data_ptr()) for weight in half.parameters()]
    wrong = torch.zeros(1, half.config.latent_channels + 1, 4, 4)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        codec_of(half, torch.float16).decode_in_float32(wrong)
    assert [(weight.dtype, weight.data_ptr()) for weight in half.parameters()] == before


def test_latent_statistics_of_the_checkpoint_are_applied_both_ways() -> None:
    vae = make_vae().eval()
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 1.0, 0.5, 3.0]
    vae.register_to_config(latents_mean=mean, latents_std=std)
    moments = torch.cat([torch.ones(4, 2, 2), torch.full((4, 2, 2), -30.0)])  # of almost no variance
    latents = codec_of(vae).sample(moments, seeded(1))
    expected = (1 - torch.tensor(mean)) / torch.tensor(std) * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected.view(4, 1, 1).expand(4, 2, 2), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        pixels = codec_of(vae).decode(latents[None])[0]()
        unscaled = codec_of(make_like(vae)).decode(torch.ones(1, 4, 2, 2) * vae.config.scaling_factor)[0]()
    np.testing.assert_array_equal(pixels, unscaled)


def make_like(vae: Any) -> Any:
    """The same weights without statistics."""
    plain = make_vae().eval()
    plain.load_state_dict(vae.state_dict())
    return plain


def test_tiny_autoencoder_gives_diffusers_image(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    widths, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    StableDiffusionImg2ImgPipeline.from_pretrained(checkpoints("sd15"), vae=tiny).save_pretrained(tmp_path)
    request = Img2ImgRequest("a", smooth_image(1, 64, 64), "a cat", None, 0.5, 5.0, 6, 3, "ddim")
    ours = run(make_engine(tmp_path), [request])["a"]
    assert np.abs(ours.astype(int) - Reference(tmp_path)(request)).max() <= 1
