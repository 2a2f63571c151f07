"""The `info` of an img2img reply: JSON about the results, with the web UI's keys."""

from __future__ import annotations

import json
import time
from typing import Any

from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import ModelConfig
from deployments.images.metadata import SAMPLER_NAMES, format_parameters, parse_parameters
from deployments.schemas import Img2ImgResult, Settings
from deployments.service import PreparedRequest


def info_of(body: Img2ImgBody, prepared: PreparedRequest, results: list[Img2ImgResult], model: ModelConfig) -> str:
    """The info of the finished images. `infotexts` are the settings inside their files."""
    height, width = prepared.image.pixels.shape[:2]
    images = [result.settings for result in results]
    texts = [format_parameters(settings, (width, height)) for settings in images]
    document = {
        **_request_fields(body),
        **_seeds(body, prepared.settings, images),
        "all_prompts": [body.prompt] * len(images),
        "all_negative_prompts": [body.negative_prompt] * len(images),
        "width": width,
        "height": height,
        "sampler_name": SAMPLER_NAMES[prepared.settings.sampler][0],
        "sd_model_name": prepared.settings.model,
        "fallback_for": prepared.fallback_for,
        "sd_model_hash": model.revision,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "face_restoration_model": None,
        "extra_generation_params": {"Schedule type": SAMPLER_NAMES[prepared.settings.sampler][1]},
        "index_of_first_image": 0,
        "infotexts": texts,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": parse_parameters(format_parameters(prepared.settings, (width, height)))["Version"],
    }
    return json.dumps(document)


def _request_fields(body: Img2ImgBody) -> dict[str, Any]:
    names = "prompt negative_prompt cfg_scale steps batch_size restore_faces denoising_strength styles"
    return {name: getattr(body, name) for name in names.split()}


def _seeds(body: Img2ImgBody, settings: Settings, images: list[Settings]) -> dict[str, Any]:
    subseed = max(body.subseed, 0)
    return {
        "seed": settings.seed,
        "all_seeds": [each.seed for each in images],
        "subseed": subseed,
        "all_subseeds": [subseed + each.seed - settings.seed for each in images],
        "subseed_strength": body.subseed_strength,
        "seed_resize_from_w": body.seed_resize_from_w,
        "seed_resize_from_h": body.seed_resize_from_h,
    }
