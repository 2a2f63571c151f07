"""The choice of a request's model, and its settings. Pure functions of the request and the configuration."""

from __future__ import annotations

import math
import random
from collections.abc import Container

from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.errors import UnknownModel
from deployments.schemas import MAX_SEED, Img2ImgOptions, Settings, parse_loras


def pick_seed(options: Img2ImgOptions) -> int:
    """The caller's seed, or a random one of 32 bits, which fits every client's number type."""
    return random.getrandbits(32) if options.seed is None else options.seed


def choose_model(name: str | None, config: AppConfig, seed: int) -> str:
    """The id of the model with this id or alias; without a name, the first in the configuration.

    `auto`, in any case, draws by weight from a generator seeded with `seed`, so equal requests get the same model.
    Raises UnknownModel.
    """
    if name is None:
        return next(iter(config.models))
    if name.casefold() == "auto":
        weights = [model.weight for model in config.models.values()]
        return random.Random(f"{config.seed}/{seed}").choices(list(config.models), weights)[0]
    return model_id_of(name, config)


def model_id_of(name: str, config: AppConfig) -> str:
    """The id of the model with this id or alias, in any case unless the exact one is there. Raises UnknownModel."""
    known = {name: model_id for model_id, model in config.models.items() for name in (model_id, *model.aliases)}
    if name in known:
        return known[name]
    for other, model_id in known.items():
        if other.casefold() == name.casefold():
            return model_id
    raise UnknownModel(f"no model {name!r}; models: {', '.join(config.models)}", "model")


def first_ready(model_id: str, config: AppConfig, ready: Container[str]) -> str:
    """The model if it is ready, else the first ready one of its fallbacks, else the model."""
    candidates = (model_id, *config.models[model_id].fallback)
    return next((candidate for candidate in candidates if candidate in ready), model_id)


def resolve(options: Img2ImgOptions, config: AppConfig, model_id: str, seed: int) -> Settings:
    """Complete `options` with the model's defaults, then the app's, and check the limits.

    Raises InvalidRequest that names the field and its allowed range.
    """
    requested = options.model_dump(exclude_none=True, include=set(Settings.model_fields) - {"model", "seed"})
    settings = Settings(**{**config.defaults_for(model_id).model_dump(), **requested}, model=model_id, seed=seed)
    _check_limits(options, settings, config)
    return settings


def _check_limits(options: Img2ImgOptions, settings: Settings, config: AppConfig) -> None:
    limits = config.limits
    for param, value, most in (
        ("num_inference_steps", settings.num_inference_steps, limits.max_steps),
        ("max_side", settings.max_side, limits.max_side),
        ("num_images", options.num_images, limits.max_images),
    ):
        if value > most:
            raise InvalidRequest(f"{param} must be at most {most}, not {value}", param)
    for param, text in (("prompt", settings.prompt), ("negative_prompt", settings.negative_prompt or "")):
        if len(text) > limits.max_prompt_chars:
            most = limits.max_prompt_chars
            raise InvalidRequest(f"{param} must have at most {most} characters, not {len(text)}", param)
    known = config.models[settings.model].loras
    for name, _ in parse_loras(settings.loras or ""):
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidRequest(f"loras: model {settings.model!r} has no LoRA {name!r}; LoRAs: {names}", "loras")
    if settings.seed + options.num_images - 1 > MAX_SEED:
        raise InvalidRequest(f"seed + num_images must stay below {MAX_SEED + 2}", "seed")
    steps = settings.num_inference_steps
    if int(steps * settings.strength) < 1:
        raise InvalidRequest(
            f"strength {settings.strength:g} runs no step of num_inference_steps {steps}: "
            f"the minimum is {least_strength(steps):g}, the maximum is 1",
            "strength",
        )


def least_strength(num_inference_steps: int) -> float:
    """The smallest strength that runs one step, rounded up by at most 1%: 0.05 of 20 steps, 0.0205 of 49."""
    exact = 1 / num_inference_steps
    candidates = (math.ceil(10.0**digits * exact) / 10.0**digits for digits in range(1, 6))
    return next(s for s in candidates if s <= 1.01 * exact and int(num_inference_steps * s) >= 1)
