"""Masks: diffusers' blending of latents inside, the source's own pixels outside, every convention of what is what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from PIL import Image

from deployments.engine.errors import InvalidRequest
from deployments.engine.models.samplers import SAMPLERS
from deployments.engine.request import Img2ImgRequest, Mask, Pixels, Sampler
from deployments.images.codec import SourceImage
from deployments.images.masks import MaskMode, feather, fit_mask, read_mask
from deployments.images.strips import mix
from tests.support.reference import SCHEDULERS, Reference, make_engine, run, smooth_image

SOURCE = smooth_image(5, 64, 48)
ASK = Img2ImgRequest("", SOURCE, "a cat", "blurry", 0.7, 6.0, 10, 3)


def disc(width: int, height: int) -> Mask:
    y, x = np.mgrid[:height, :width]
    return np.where(np.hypot(x - width / 2, y - height / 2) < height / 3, 255, 0).astype(np.uint8)


def blended(checkpoint: Path, request: Img2ImgRequest) -> Pixels:
    """A plain loop over diffusers' own parts: after each step the latents outside the mask are the source's, noised."""
    pipeline = Reference(checkpoint).pipeline
    scheduler_class, options = SCHEDULERS[request.sampler]
    scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    scheduler.set_timesteps(request.num_inference_steps)
    first = request.num_inference_steps - request.num_denoise_steps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    with torch.inference_mode():
        prompt, negative = pipeline.encode_prompt(request.prompt, "cpu", 1, True, request.negative_prompt)
        pixels = torch.from_numpy(request.pixels).permute(2, 0, 1)[None] / 127.5 - 1
        source = pipeline.vae.encode(pixels).latent_dist.sample(generator) * pipeline.vae.config.scaling_factor
        noise = torch.randn(source.shape, generator=generator)
        small = torch.from_numpy(request.mask >= 128)[None, None].float()
        small = torch.nn.functional.interpolate(small, source.shape[-2:])
        times = scheduler.timesteps[first:]
        latents = scheduler.add_noise(source, noise, times[:1])
        extra: dict[str, Any] = {"generator": generator} if request.sampler in ("euler_ancestral", "lcm") else {}
        for i, t in enumerate(times):
            rows = scheduler.scale_model_input(torch.cat([latents] * 2), t)
            uncond, cond = pipeline.unet(rows, t, encoder_hidden_states=torch.cat([negative, prompt])).sample.chunk(2)
            guided = uncond + request.guidance_scale * (cond - uncond)
            latents = scheduler.step(guided, t, latents, **extra).prev_sample
            outside = source if i + 1 == len(times) else scheduler.add_noise(source, noise, times[i + 1 : i + 2])
            latents = (1 - small) * outside + small * latents
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample[0]
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def close(image: Pixels, expected: Pixels) -> bool:
    return int(np.abs(image.astype(int) - expected.astype(int)).max()) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_masked_image_equals_a_loop_that_blends_latents_after_each_step(
    sampler: Sampler, checkpoints: Callable[[str], Path]
) -> None:
    request = replace(ASK, mask=disc(64, 48), sampler=sampler)
    neighbours = [replace(ASK, request_id="plain", sampler="ddim"), replace(request, request_id="other", seed=9)]
    images = run(make_engine(checkpoints("sd15")), [request, *neighbours], join_every=2)
    assert close(images[""], blended(checkpoints("sd15"), request))
    assert close(images["plain"], Reference(checkpoints("sd15"))(neighbours[0]))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_masked_image_equals_diffusers_inpainting_pipeline(kind: str, checkpoints: Callable[[str], Path]) -> None:
    request = replace(ASK, mask=disc(64, 48), sampler="euler")
    reference = Reference(checkpoints(kind)).pipeline
    inpainting = StableDiffusionXLInpaintPipeline if kind == "sdxl" else StableDiffusionInpaintPipeline
    pipeline = inpainting.from_pipe(reference)
    pipeline.set_progress_bar_config(disable=True)
    scheduler_class, options = SCHEDULERS["euler"]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    image = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        image=Image.fromarray(SOURCE),
        mask_image=Image.fromarray(disc(64, 48)),
        width=64,
        height=48,
        strength=request.strength,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="np",
    ).images[0]
    expected = (image * 255).round().astype(np.uint8)
    assert close(run(make_engine(checkpoints(kind)), [request])[""], expected)


def test_mask_that_falls_between_all_latents_is_refused(checkpoints: Callable[[str], Path]) -> None:
    runner = make_engine(checkpoints("sd15")).runner
    scratch = np.zeros((48, 64), np.uint8)
    scratch[:, 3:7] = 255
    with pytest.raises(InvalidRequest, match="finer than") as caught:
        runner.prepare(replace(ASK, mask=scratch))
    assert caught.value.param == "mask"
    scratch[:, 8] = 255
    assert runner.prepare(replace(ASK, mask=scratch)).request.mask is not None


@pytest.mark.parametrize("blur", [0.0, 4.0, 30.0])
def test_outside_the_mask_every_pixel_is_the_sources(blur: float) -> None:
    mask, generated = disc(64, 48), 255 - SOURCE
    result = mix(SOURCE, generated, feather(mask, blur))
    assert np.array_equal(result[mask == 0], SOURCE[mask == 0])
    assert not np.array_equal(result[mask == 255], SOURCE[mask == 255])


def test_border_is_feathered_inwards() -> None:
    mask = np.zeros((9, 90), np.uint8)
    mask[:, 30:] = 255
    black, white = np.zeros((9, 90, 3), np.uint8), np.full((9, 90, 3), 255, np.uint8)
    row = mix(black, white, feather(mask, 4.0))[4, :, 0].astype(int)
    assert (row[:30] == 0).all()
    assert (np.diff(row) >= 0).all()
    assert 100 < row[30] < 160
    assert (row[45:] == 255).all()


def test_full_mask_without_feather_is_the_generated_image() -> None:
    generated = 255 - SOURCE
    assert np.array_equal(mix(SOURCE, generated, np.full((48, 64), 255, np.uint8)), generated)


def mask_file(white: Mask, alpha: Mask | None = None) -> SourceImage:
    return SourceImage(np.repeat(white[..., None], 3, axis=2), alpha, None, "png")


AREA = disc(64, 48)
ALL = np.full((48, 64), 255, np.uint8)


@pytest.mark.parametrize(
    ("mode", "file"),
    [
        ("auto", mask_file(AREA)),
        ("auto", mask_file(AREA, ALL)),
        ("auto", mask_file(ALL, 255 - AREA)),
        ("white", mask_file(AREA, ALL)),
        ("transparent", mask_file(ALL, 255 - AREA)),
        ("opaque", mask_file(ALL, AREA)),
    ],
)
def test_every_convention_names_the_same_area(mode: MaskMode, file: SourceImage) -> None:
    assert np.array_equal(read_mask(file, (64, 48), mode), AREA)


@pytest.mark.parametrize("mode", ["transparent", "opaque"])
def test_mask_without_transparency_is_refused_where_that_is_what_counts(mode: MaskMode) -> None:
    with pytest.raises(InvalidRequest, match="no transparency") as caught:
        read_mask(mask_file(AREA), (64, 48), mode)
    assert caught.value.param == "mask"


def test_mask_of_another_size_is_scaled_to_the_sources_and_to_the_models() -> None:
    large = read_mask(mask_file(disc(256, 192)), (64, 48))
    assert large.shape == (48, 64)
    assert np.abs(large.astype(int) - AREA).mean() < 10
    assert fit_mask(AREA, SOURCE[::2, ::2]).shape == (24, 32)
