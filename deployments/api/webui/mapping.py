"""Maps the web UI's requests to ours: steps, samplers, seeds, sizes, LoRAs and models. Pure functions."""

from __future__ import annotations

import re

from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import AppConfig, Limits, ModelConfig
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Sampler
from deployments.images.metadata import SAMPLER_NAMES
from deployments.schemas import Img2ImgOptions, OutputFormat, canonical_loras

SAMPLER_ALIASES = {
    "DPM++ 2M": ("k_dpmpp_2m",),
    "Euler a": ("k_euler_a", "k_euler_ancestral"),
    "Euler": ("k_euler",),
    "DDIM": ("k_ddim",),
    "LCM": ("k_lcm",),
}
SCHEDULERS = ("automatic", "uniform", "karras")
FORMATS: dict[str, OutputFormat] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
HASH_CHARS = 10

_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^<>]*)>")


def to_options(body: Img2ImgBody, model: str | None, limits: Limits) -> Img2ImgOptions:
    """The request as Img2ImgOptions for `model`. Raises InvalidRequest that names the web UI's field."""
    for param, side in (("width", body.width), ("height", body.height)):
        if side is not None and not limits.min_side <= side <= limits.max_side:
            raise InvalidRequest(f"{param} must be {limits.min_side} to {limits.max_side}, not {side}", param)
    if (num_images := body.batch_size * body.n_iter) > limits.max_images:
        message = f"batch_size * n_iter must be at most {limits.max_images}, not {num_images}"
        raise InvalidRequest(message, "batch_size")
    prompt, loras = split_loras(body.prompt)
    sampler = find_sampler(body.sampler_name or body.sampler_index, body.scheduler)
    if sampler == "euler_ancestral" and body.eta == 0:
        sampler = "euler"  # which is Euler a without noise
    return Img2ImgOptions(
        prompt=prompt,
        negative_prompt=body.negative_prompt,
        model=model,
        strength=strength_for(body.denoising_strength, body.steps),
        guidance_scale=body.cfg_scale,
        num_inference_steps=body.steps,
        seed=None if body.seed == -1 else body.seed,
        sampler=sampler,
        loras=loras,
        max_side=max(body.width or limits.max_side, body.height or limits.max_side, 16),
        output_format=FORMATS[body.override_settings.samples_format],
        num_images=num_images,
    )


def strength_for(denoising_strength: float, steps: int) -> float:
    """The strength that runs the same number of steps as the web UI.

    The web UI runs the last t + 1 steps of the schedule, with t = int(min(denoising_strength, 0.999) * steps). This
    server runs the last int(steps * strength). Half a step is added against rounding.
    """
    last = int(min(denoising_strength, 0.999) * steps)
    return min(1.0, round((last + 1.5) / steps, 4))


def find_sampler(name: str, scheduler: str) -> Sampler:
    """The sampler with the web UI's `name` in any case. A scheduler in the name precedes `scheduler`.

    Raises InvalidRequest for an unknown sampler or an unsupported scheduler.
    """
    names = {alias.casefold(): known for known, more in SAMPLER_ALIASES.items() for alias in (known, *more)}
    plain, scheduler = name.strip().casefold(), scheduler.strip().casefold() or SCHEDULERS[0]
    for word in SCHEDULERS:
        if plain.endswith(f" {word}"):
            plain, scheduler = plain.removesuffix(f" {word}"), word
    if plain not in names:
        listed = ", ".join(SAMPLER_ALIASES)
        raise InvalidRequest(f"Sampler not found: sampler_name {name!r}; samplers: {listed}", "sampler_name")
    found = samplers_of(names[plain])
    if scheduler not in found:
        listed = ", ".join(found)
        raise InvalidRequest(
            f"scheduler {scheduler!r} is not supported with {names[plain]}; schedulers: {listed}", "scheduler"
        )
    return found[scheduler]


def samplers_of(name: str) -> dict[str, Sampler]:
    """The samplers with the web UI's `name`, by scheduler."""
    by_scheduler = {label.casefold(): ours for ours, (theirs, label) in SAMPLER_NAMES.items() if theirs == name}
    automatic = by_scheduler.get("automatic") or by_scheduler["karras"]
    return {"automatic": automatic, "uniform": automatic} | by_scheduler


def split_loras(prompt: str) -> tuple[str, str | None]:
    """The prompt without its `<lora:name:weight>` tags, and the tags as `loras`. Raises InvalidRequest."""
    loras = []
    for kind, content in _NETWORK.findall(prompt):
        name, *weights = content.split(":")
        if kind != "lora" or len(weights) > 1 or "," in content or not name.strip():
            expected = "use <lora:name:weight> with a LoRA of the model"
            raise InvalidRequest(f"prompt: <{kind}:{content}> is not served; {expected}", "prompt")
        loras.append(content)
    try:
        written_out = canonical_loras(",".join(loras))
    except ValueError as error:
        raise InvalidRequest(f"prompt: {error}", "prompt") from error
    return (_NETWORK.sub("", prompt).strip() if loras else prompt), written_out


def title_of(model_id: str, model: ModelConfig) -> str:
    """The model's title in the web UI, `name.safetensors [hash]`; the hash is the start of the revision, if any."""
    return f"{model_id}.safetensors" + (f" [{model.revision[:HASH_CHARS]}]" if model.revision else "")


def find_model(name: str, config: AppConfig, param: str) -> str:
    """The id of the model with this title, name, id or alias, in any case. Raises InvalidRequest."""
    plain = re.sub(r"\[\w*\]$", "", name.strip()).rstrip().casefold()
    names = {plain, plain.removesuffix(".safetensors")}
    for model_id, model in config.models.items():
        if names & {known.casefold() for known in (model_id, *model.aliases)}:
            return model_id
    raise InvalidRequest(f"{param}: no model {name!r}; models: {', '.join(config.models)}", param)


def current_model(picked: str | None, config: AppConfig) -> str:
    """The picked model if it is configured, else the first model."""
    return picked if picked in config.models else next(iter(config.models))
