"""The request as callers write it, the settings with all defaults filled in, and the reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from deployments.config import (
    MAX_IMAGES,
    MAX_NAME_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_UPLOAD_BYTES,
    Strict,
)
from deployments.engine.request import Loras, Pixels, Sampler, Timings

OutputFormat = Literal["png", "jpeg", "webp"]
MAX_SEED = 2**63 - 1
MAX_LORA_WEIGHT = 4.0
MAX_LORAS_CHARS = 10_000
MAX_BASE64_CHARS = MAX_UPLOAD_BYTES * 4 // 3


def encodable(text: str) -> str:
    """The text with `?` for each lone surrogate, which JSON can hold but tokenizers, replies and files cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _encodable(value: Any) -> Any:
    return encodable(value) if isinstance(value, str) else value


# Texts of callers: without lone surrogates, and bounded before anything parses them. The configuration's
# `max_prompt_chars` is at most the bound of a prompt.
PromptText = Annotated[str, Field(max_length=MAX_PROMPT_CHARS), BeforeValidator(_encodable)]
NameText = Annotated[str, Field(max_length=MAX_NAME_CHARS), BeforeValidator(_encodable)]
LorasText = Annotated[str, Field(max_length=MAX_LORAS_CHARS), BeforeValidator(_encodable)]
Base64Text = Annotated[str, Field(max_length=MAX_BASE64_CHARS)]


def parse_loras(text: str) -> Loras:
    """LoRAs and weights of "name:0.8,other"; the default weight is 1. Raises ValueError."""
    loras: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            value = float(weight or 1)
        except ValueError:
            raise ValueError(f"{weight!r} is not a weight; write name:weight,name:weight") from None
        if not abs(value) <= MAX_LORA_WEIGHT:
            raise ValueError(f"the weight of {name!r} must be {-MAX_LORA_WEIGHT:g} to {MAX_LORA_WEIGHT:g}, not {value}")
        loras[name.strip()] = value
    return tuple((name, value) for name, value in loras.items() if value)


def canonical_loras(text: str | None) -> str | None:
    """The LoRAs with every weight written out, None for none. Raises ValueError, also if that is too long."""
    written_out = ",".join(f"{name}:{weight:.10g}" for name, weight in parse_loras(text or ""))
    if len(written_out) > MAX_LORAS_CHARS:
        raise ValueError(f"must have at most {MAX_LORAS_CHARS} characters with every weight written out")
    return written_out or None


class ImageOptions(Strict):
    """The options of an image. Omitted ones take the model's defaults, then the app's."""

    prompt: PromptText | None = Field(None, description="What the result should show.")
    negative_prompt: PromptText | None = Field(
        None, description="What the result should avoid. Needs guidance_scale above 1."
    )
    strength: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="0 keeps the source, 1 ignores it."
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=50, allow_inf_nan=False, description="How closely to follow the prompt. Guidance is off up to 1."
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Steps of the schedule; int(steps * strength) of them run."
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Image i of a request uses seed + i.")
    sampler: Sampler | None = Field(None, description="The sampling method.")
    loras: Annotated[LorasText | None, AfterValidator(canonical_loras)] = Field(
        None, description="LoRAs of the model and their weights, `name:0.8,other:0.5`."
    )
    max_side: int | None = Field(
        None, ge=16, le=MAX_SIDE, description="Longest side of the model's input; never enlarged."
    )


class Img2ImgOptions(ImageOptions):
    """The options of a request."""

    model: NameText | None = Field(None, description="Model id, alias, or `auto` for a seeded random choice.")
    output_format: OutputFormat = Field("png", description="Format of the result.")
    num_images: int = Field(1, ge=1, le=MAX_IMAGES, description="Number of images, up to the server's `max_images`.")


class Settings(Strict):
    """Everything but the source that determines an image's pixels."""

    model: str
    prompt: str
    negative_prompt: str | None
    strength: float
    guidance_scale: float
    num_inference_steps: int
    seed: int
    sampler: Sampler
    max_side: int
    loras: str | None = None

    def for_engine(self) -> dict[str, Any]:
        """The fields of an Img2ImgRequest that these settings determine."""
        return self.model_dump(exclude={"model", "max_side"}) | {"loras": parse_loras(self.loras or "")}


@dataclass(frozen=True, slots=True, eq=False)
class Img2ImgResult:
    """One finished image. The pixels have the size of the request's pixels."""

    settings: Settings
    pixels: Pixels
    num_denoise_steps: int
    truncated: str
    timings: Timings


class ImageReply(BaseModel):
    """One image of a JSON reply."""

    b64: str
    seed: int
    width: int
    height: int
    format: OutputFormat


class Img2ImgReply(BaseModel):
    """The JSON reply to `POST /v1/img2img`.

    `truncated` is the part of the prompts beyond the text encoder's limit. `fallback_for` is the requested model, if it
    was not ready and `model` is its fallback.
    """

    id: str
    model: str
    fallback_for: str | None = None
    created: int
    timings: dict[str, float]
    truncated: str = ""
    images: list[ImageReply]
    parameters: dict[str, Any]


class ErrorDetail(BaseModel):
    """An error. `param` names the offending field, if any."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorReply(BaseModel):
    """The body of every error."""

    error: ErrorDetail
