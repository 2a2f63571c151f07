"""The fields of OpenAI's `POST /v1/images/edits` and of its reply: their effect here, and the refused values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import File, UploadFile
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from deployments.config import MAX_IMAGES
from deployments.engine.errors import InvalidRequest
from deployments.images.masks import MASK_BLUR, MASK_MODE_DESCRIPTION, MAX_MASK_BLUR, MaskMode
from deployments.schemas import MAX_SEED, Img2ImgOptions, NameText, OutputFormat, PromptText

MAX_UPLOADS = 16  # which OpenAI takes; more than one are refused by name
Quality = Literal["low", "medium", "high"]


def _refuse(reason: str, *values: str) -> BeforeValidator:
    """Refuse these values of a field, or any value."""

    def check(value: Any) -> Any:
        if value in values or not values:
            raise PydanticCustomError("unsupported_value", "{reason}", {"reason": reason})
        return value

    return BeforeValidator(check)


class ImageEditForm(Img2ImgOptions):
    """The fields of `POST /v1/images/edits`. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    image: Annotated[list[UploadFile], File(max_length=MAX_UPLOADS, description="The image to edit, exactly one.")] = []
    image_list: Annotated[
        list[UploadFile], File(alias="image[]", max_length=MAX_UPLOADS, description="The image, as a list of one.")
    ] = []
    mask: Annotated[
        UploadFile | None,
        File(
            validation_alias=AliasChoices("mask", "mask_image"),
            description="Marks where the image may change: transparent if any of it is, else white. Without it, what "
            "is fully transparent in the image, if anything. Alias: `mask_image`.",
        ),
    ] = None
    prompt: PromptText = Field(description="What the result should show.")
    num_images: int = Field(
        1,
        ge=1,
        le=MAX_IMAGES,
        validation_alias=AliasChoices("n", "num_images_per_prompt", "num_images"),
        description="Number of images, up to the server's `max_images`. Also `num_images_per_prompt`, `num_images`.",
    )
    size: NameText = Field(
        "auto",
        description="`auto` for the source's size, or WIDTHxHEIGHT. The source is cropped around its centre and scaled "
        "to that size, not stretched. Without max_side it is also the size of the model's input.",
    )
    response_format: Annotated[
        Literal["b64_json"],
        _refuse("must be b64_json: replicas share no store that could serve a URL", "url"),
    ] = Field("b64_json", description="`url` is refused: replicas share no store that could serve a URL.")
    output_format: OutputFormat = Field("png", description="`gif` and `svg` are refused.")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP. PNG has none and accepts only 100."
    )
    background: Annotated[
        Literal["auto", "opaque"],
        _refuse("must be auto or opaque: no model here makes a background transparent", "transparent"),
    ] = Field(
        "auto",
        description="`auto` keeps the source's transparency outside the mask, `opaque` removes it. "
        "`transparent` is refused: no model here makes a background transparent.",
    )
    quality: Literal["auto", "standard", "low", "medium", "high"] = Field(
        "auto",
        description="Denoising steps: the model's default for `auto`, `standard` and `medium`, half of it for `low`, "
        "twice for `high`. num_inference_steps takes precedence. `xhigh` and `max` are refused.",
    )
    input_fidelity: Annotated[
        Literal["low"], _refuse("must be low: a lower strength keeps more of the source", "high")
    ] = Field("low", description="`high` is refused: a lower `strength` keeps more of the source.")
    stream: bool = Field(False, description="Reply with events: partial images, then every image.")
    partial_images: int = Field(
        0, ge=0, le=3, description="Previews of each image in a stream, spread evenly over its steps."
    )
    user: Any = Field(None, description="Ignored.")
    safety_identifier: Any = Field(None, description="Ignored.")
    moderation: Any = Field(None, description="Ignored: there is no moderation.")
    markup: Annotated[Any, _refuse("is not supported: use mask")] = Field(None, description="Refused: use `mask`.")
    complexity: Annotated[Any, _refuse("is not supported: use quality or num_inference_steps")] = Field(
        None, description="Refused: use `quality` or `num_inference_steps`."
    )
    frame_count: Annotated[Any, _refuse("is not supported: there are no animations")] = Field(
        None, description="Refused: there are no animations."
    )
    frame_duration_ms: Annotated[Any, _refuse("is not supported: there are no animations")] = Field(
        None, description="Refused: there are no animations."
    )
    svg: Annotated[Any, _refuse("is not supported: there are no vector graphics")] = Field(
        None, description="Refused: there are no vector graphics."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        validation_alias=AliasChoices("seed", "rng_seed"),
        description="Image i uses seed + i, returned as `data[].seed`. Alias: `rng_seed`.",
    )
    true_cfg_scale: Annotated[Any, _refuse("is not supported: use guidance_scale")] = Field(
        None, description="Refused: use `guidance_scale`."
    )
    mask_mode: MaskMode = Field("auto", description=MASK_MODE_DESCRIPTION)
    mask_blur: float = Field(MASK_BLUR, ge=0, le=MAX_MASK_BLUR, description="Feather of the mask's border in pixels.")

    @model_validator(mode="before")
    @classmethod
    def _no_nested_values(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Refuse `name[key]`, which SDKs send for objects and lists, so that it is not ignored as an unknown field."""
        for name in fields:
            plain, bracket, _ = name.partition("[")
            if bracket and name != "image[]" and plain in cls.model_fields:
                raise InvalidRequest(f"{name}: {plain} must be a single value, not a list or object", name)
        return fields


class TokenCounts(BaseModel):
    """Tokens by kind."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Zeros for OpenAI's token counts, which its SDKs require."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: TokenCounts = TokenCounts()
    output_tokens_details: TokenCounts = TokenCounts()


class EditedImage(BaseModel):
    """One image of the reply; `seed` is our addition."""

    b64_json: str
    revised_prompt: None = None
    seed: int


class ImageMetadata(BaseModel):
    """The metadata of a reply or event; `model` and `fallback_for` are our additions."""

    model: str
    fallback_for: str | None = None
    output_format: OutputFormat
    size: str
    background: Literal["opaque", "transparent"]
    quality: Quality


class ImagesReply(ImageMetadata):
    """The reply to `POST /v1/images/edits`."""

    created: int
    data: list[EditedImage]
    usage: Usage = Usage()
