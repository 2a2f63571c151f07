"""The fields of OpenAI's `POST /v1/images/edits` and of its reply: what each does here, and what is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import File, UploadFile
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from deployments.engine.errors import InvalidRequest
from deployments.images.masks import MASK_BLUR, MAX_MASK_BLUR, MaskMode
from deployments.schemas import MAX_SEED, Img2ImgOptions, OutputFormat

Quality = Literal["low", "medium", "high"]


def _refuse(reason: str, *values: str) -> BeforeValidator:
    """A field of the contract that is refused at these values, or at any."""

    def check(value: Any) -> Any:
        if value in values or not values:
            raise PydanticCustomError("unsupported_value", "{reason}", {"reason": reason})
        return value

    return BeforeValidator(check)


class ImageEditForm(Img2ImgOptions):
    """The fields of `POST /v1/images/edits`. A field that is none of them is ignored."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    image: Annotated[list[UploadFile], File(description="The image to edit, exactly one.")] = []
    image_list: Annotated[list[UploadFile], File(alias="image[]", description="The image, as a list of one.")] = []
    mask: Annotated[
        UploadFile | None,
        File(
            validation_alias=AliasChoices("mask", "mask_image"),
            description="Where the image may change: where it is transparent, or white if it is nowhere transparent. "
            "Also as `mask_image`.",
        ),
    ] = None
    prompt: str = Field(description="What the image should become.")
    num_images: int = Field(
        1,
        ge=1,
        validation_alias=AliasChoices("n", "num_images_per_prompt", "num_images"),
        description="How many images; up to the server's `max_images`. Also as `num_images_per_prompt`, `num_images`.",
    )
    size: str = Field(
        "auto",
        description="`auto` for the source's own size, or WIDTHxHEIGHT: the source is cropped around its centre to "
        "that shape and scaled to that size, never stretched, and the model sees that size unless max_side is given.",
    )
    response_format: Annotated[
        Literal["b64_json"],
        _refuse("must be b64_json: a URL of one replica is of no use behind a load balancer", "url"),
    ] = Field("b64_json", description="`url` is refused: there is no store that all replicas could serve it from.")
    output_format: OutputFormat = Field("png", description="`gif` and `svg` are refused.")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="The quality of JPEG and WebP. PNG has none, and takes 100 only."
    )
    background: Annotated[
        Literal["auto", "opaque"],
        _refuse("must be auto or opaque: nothing here makes a background transparent", "transparent"),
    ] = Field(
        "auto",
        description="`auto` gives the reply the source's transparency, `opaque` none. `transparent` is refused: "
        "nothing here makes a background transparent.",
    )
    quality: Literal["auto", "standard", "low", "medium", "high"] = Field(
        "auto",
        description="Denoising steps: the model's default for `auto`, `standard` and `medium`, half of it for `low`, "
        "twice for `high`. num_inference_steps comes first. `xhigh` and `max` are refused.",
    )
    input_fidelity: Annotated[
        Literal["low"], _refuse("must be low: a lower strength keeps more of the source", "high")
    ] = Field("low", description="`high` is refused: a lower `strength` keeps more of the source.")
    stream: bool = Field(False, description="Answer with events: partial images, then every image.")
    partial_images: int = Field(
        0, ge=0, le=3, description="In a stream: how many previews of each image, spread evenly over its steps."
    )
    user: Any = Field(None, description="Ignored.")
    safety_identifier: Any = Field(None, description="Ignored.")
    moderation: Any = Field(None, description="Ignored: nothing is moderated.")
    markup: Annotated[Any, _refuse("is not supported: say where to edit with mask")] = Field(
        None, description="Refused: say where to edit with `mask`."
    )
    complexity: Annotated[Any, _refuse("is not supported: use quality or num_inference_steps")] = Field(
        None, description="Refused: use `quality` or `num_inference_steps`."
    )
    frame_count: Annotated[Any, _refuse("is not supported: no animations are made")] = Field(
        None, description="Refused: no animations are made."
    )
    frame_duration_ms: Annotated[Any, _refuse("is not supported: no animations are made")] = Field(
        None, description="Refused: no animations are made."
    )
    svg: Annotated[Any, _refuse("is not supported: no vector graphics are made")] = Field(
        None, description="Refused: no vector graphics are made."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        validation_alias=AliasChoices("seed", "rng_seed"),
        description="Image i of a request uses seed + i; `data[].seed` tells it. Also as `rng_seed`.",
    )
    true_cfg_scale: Annotated[Any, _refuse("is not supported: use guidance_scale")] = Field(
        None, description="Refused: the models have one scale, `guidance_scale`."
    )
    mask_mode: MaskMode = Field(
        "auto", description="What in the mask stands for change; `auto`: what is transparent, if anything, else white."
    )
    mask_blur: float = Field(MASK_BLUR, ge=0, le=MAX_MASK_BLUR, description="Pixels the mask's border is feathered by.")

    @model_validator(mode="before")
    @classmethod
    def _no_nested_values(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The SDKs write objects and lists as `name[key]`, which must not pass for fields that nobody knows."""
        for name in fields:
            plain, bracket, _ = name.partition("[")
            if bracket and name != "image[]" and plain in cls.model_fields:
                raise InvalidRequest(f"{name}: {plain} is one plain value, no list or object", name)
        return fields


class TokenCounts(BaseModel):
    """Tokens by kind."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Zeros where OpenAI counts tokens: its SDKs want the numbers."""

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
    """The metadata of a reply or event; `model` is our addition."""

    model: str
    output_format: OutputFormat
    size: str
    background: Literal["opaque", "transparent"]
    quality: Quality


class ImagesReply(ImageMetadata):
    """The reply to `POST /v1/images/edits`."""

    created: int
    data: list[EditedImage]
    usage: Usage = Usage()
