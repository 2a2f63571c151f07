"""The web UI's requests: each field's effect here, and the values that are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from deployments.config import MAX_IMAGES, MAX_SIDE, MAX_STEPS
from deployments.images.masks import MAX_MASK_BLUR
from deployments.schemas import MAX_SEED, Base64Text, NameText, PromptText

MAX_ARGS = 1000
MAX_SIGMA = 1e9


@dataclass(frozen=True)
class Only:
    """Refuses every other value, since this server lacks that feature."""

    accepted: tuple[Any, ...]

    def _check(self, value: Any) -> Any:
        if value not in self.accepted:
            words = " or ".join(json.dumps(option) for option in self.accepted)
            raise PydanticCustomError("unsupported", "this server accepts only {words}", {"words": words})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"enum": list(self.accepted)}


def only(*accepted: Any) -> Only:
    """For `Annotated`: the only values that a field accepts."""
    return Only(accepted)


class WebuiBody(BaseModel):
    """Unknown fields are ignored and null means the default, as in the web UI."""

    model_config = ConfigDict(protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = ("width", "height")  # null has a meaning of its own
        return {name: value for name, value in data.items() if value is not None or name in kept}


SamplesFormat = Annotated[Literal["png", "jpg", "jpeg", "webp"], BeforeValidator(lambda v: str(v).lower())]


class WebuiSettings(WebuiBody):
    """The web UI's settings that change images. All others are ignored."""

    CLIP_stop_at_last_layers: Annotated[int, only(1)] = Field(1, description="Refused if not 1.")
    sd_vae: Annotated[str, only("Automatic", "None", "")] = Field(
        "Automatic", description="Refused if it names a VAE: each model has its own."
    )
    sd_hypernetwork: Annotated[str, only("None", "")] = Field("None", description="Refused if it names one.")
    sd_lora: Annotated[str, only("None", "")] = Field("None", description="Refused; name LoRAs in the prompt.")
    img2img_fix_steps: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    img2img_color_correction: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    img2img_background_color: Annotated[str, only("#ffffff")] = Field("#ffffff", description="Refused if not white.")
    initial_noise_multiplier: Annotated[float, only(1)] = Field(1, description="Refused if not 1.")
    inpainting_mask_weight: Annotated[float, only(1)] = Field(1, description="Refused if not 1.")
    eta_noise_seed_delta: Annotated[int, only(0)] = Field(0, description="Refused if not 0.")
    eta_ancestral: Annotated[float, only(1)] = Field(1, description="Refused if not 1.")
    eta_ddim: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    s_churn: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    token_merging_ratio: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    token_merging_ratio_img2img: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    return_mask: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    return_mask_composite: Annotated[bool, only(False)] = Field(False, description="Refused if true.")


class Overrides(WebuiSettings):
    """The settings of one request."""

    sd_model_checkpoint: NameText = Field("", description="The model of this request: title, name, id or alias.")
    samples_format: SamplesFormat = Field("png", description="Format of the images.")


class WebuiOptions(WebuiSettings):
    """The settings shared by all later requests."""

    sd_model_checkpoint: NameText = Field(
        "", description="The model of requests under /sdapi that name none: title, name, id or alias."
    )
    samples_format: Annotated[str, only("png")] = Field(
        "png", description="Refused if not png; use a request's override_settings."
    )
    send_seed: bool = Field(True, description="Kept for front ends; it changes no image.")


class Img2ImgFields(WebuiBody):
    """The fields of an img2img request that have an effect."""

    init_images: list[Base64Text] = Field(
        default_factory=list,
        max_length=MAX_IMAGES,
        description="One image as base64, with or without `data:image/...;base64,`. Required.",
    )
    prompt: PromptText = Field(
        "",
        description="What the result should show. `<lora:name:weight>` applies a LoRA of the model. "
        "Weights such as (word:1.2) are plain text.",
    )
    negative_prompt: PromptText = Field("", description="What the result should avoid.")
    denoising_strength: float = Field(0.75, ge=0, le=1, description="int(min(this, 0.999) * steps) + 1 steps run.")
    steps: int = Field(
        50, ge=1, le=MAX_STEPS, description="Steps of the schedule; denoising_strength runs the last part."
    )
    cfg_scale: float = Field(7.0, ge=0, le=50, description="How closely to follow the prompt. Guidance is off up to 1.")
    sampler_name: NameText = Field(
        "", description="A name or alias of `GET /sdapi/v1/samplers`, optionally followed by the scheduler."
    )
    sampler_index: NameText = Field("Euler", description="Used if sampler_name is empty.")
    scheduler: NameText = Field(
        "automatic",
        description="`karras` or `uniform` with DPM++ 2M (`automatic`: karras). Other samplers have a fixed one.",
    )
    seed: int = Field(-1, ge=-1, le=MAX_SEED, description="Image i uses seed + i; -1 is random.")
    width: int | None = Field(
        512, ge=0, le=MAX_SIDE, description="Width of the reply and of the model's input; null: the image's."
    )
    height: int | None = Field(
        512, ge=0, le=MAX_SIDE, description="Height of the reply and of the model's input; null: the image's."
    )
    resize_mode: Annotated[int, only(0, 1, 2)] = Field(
        0, description="0 stretches, 1 crops, 2 fills the borders with the image's edge; 3 is refused."
    )
    batch_size: int = Field(1, ge=1, le=MAX_IMAGES, description="The request makes batch_size * n_iter images.")
    n_iter: int = Field(1, ge=1, le=MAX_IMAGES, description="The request makes batch_size * n_iter images.")
    mask: Base64Text = Field(
        "", description="An image as base64. Repaints white, or opaque if any of it is transparent."
    )
    mask_blur: int | None = Field(
        None, ge=0, le=MAX_MASK_BLUR, description="Feather of the mask's border in pixels, inside the mask."
    )
    mask_blur_x: int = Field(4, ge=0, le=MAX_MASK_BLUR, description="As mask_blur; must equal mask_blur_y.")
    mask_blur_y: int = Field(4, ge=0, le=MAX_MASK_BLUR, description="As mask_blur; must equal mask_blur_x.")
    mask_round: bool = Field(True, description="Rounds a mask with transparency to black and white.")
    inpainting_mask_invert: Annotated[int, only(0, 1)] = Field(0, description="1 inverts the mask.")
    inpainting_fill: Annotated[int, only(0, 1)] = Field(
        0, description="Content of the masked part: 0 filled from around it, 1 the image; 2 and 3 are refused."
    )
    inpaint_full_res: bool = Field(
        True, description="Repaints only the masked part, at width x height; the reply has the image's size."
    )
    inpaint_full_res_padding: int = Field(
        0, ge=0, le=MAX_SIDE, description="Pixels around the masked part that the model sees."
    )
    include_init_images: bool = Field(False, description="Whether the reply's `parameters` repeat the images.")
    override_settings: Overrides = Field(
        default_factory=Overrides, description="Settings of this request; others are ignored."
    )
    force_task_id: NameText = Field("", description="The task's id for `POST /internal/progress`; none that runs.")


class Img2ImgBody(Img2ImgFields):
    """The fields of an img2img request."""

    subseed: int = Field(-1, ge=-1, le=MAX_SEED, description="Ignored without subseed_strength.")
    subseed_strength: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    seed_resize_from_w: Annotated[int, only(-1, 0)] = Field(-1, description="Refused if above 0.")
    seed_resize_from_h: Annotated[int, only(-1, 0)] = Field(-1, description="Refused if above 0.")
    eta: Annotated[float, only(0, 1)] = Field(
        1, description="Refused if not 0 or 1. Euler a with 0 is Euler; DDIM always runs with 0."
    )
    s_churn: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    s_tmin: float = Field(0, ge=0, le=MAX_SIGMA, description="Ignored without s_churn.")
    s_tmax: float = Field(0, ge=0, le=MAX_SIGMA, description="Ignored without s_churn.")
    s_noise: Annotated[float, only(1)] = Field(1, description="Refused if not 1.")
    s_min_uncond: Annotated[float, only(0)] = Field(0, description="Refused if not 0.")
    initial_noise_multiplier: Annotated[float, only(1)] = Field(1, description="Refused if not 1.")
    image_cfg_scale: Annotated[float, only(0, 1, 1.5)] = Field(
        1.5, description="Refused if not 0, 1 or 1.5: InstructPix2Pix models are not served."
    )
    distilled_cfg_scale: Annotated[float, only(3.5)] = Field(3.5, description="Refused if not 3.5: Flux is not served.")
    styles: Annotated[list[str], only([])] = Field([], description="Refused if not empty.")
    restore_faces: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    tiling: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    enable_hr: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    refiner_checkpoint: Annotated[str, only("", "None")] = Field("", description="Refused if it names one.")
    refiner_switch_at: float = Field(0.8, ge=0, le=1, description="Ignored without refiner_checkpoint.")
    latent_mask: Annotated[str, only("")] = Field("", description="Refused; use `mask`.")
    disable_extra_networks: Annotated[bool, only(False)] = Field(False, description="Refused if true.")
    script_name: Annotated[str, only("", "None")] = Field("", description="Refused: there are no scripts.")
    script_args: list[Any] = Field([], exclude=True, max_length=MAX_ARGS, description="Ignored without script_name.")
    alwayson_scripts: Annotated[dict[str, Any], only({})] = Field({}, description="Refused if not empty.")
    infotext: Annotated[str, only("")] = Field("", description="Refused; send its fields.")
    override_settings_restore_afterwards: Annotated[bool, only(True)] = Field(
        True, description="Refused if false; use `POST /sdapi/v1/options` to change the model of later requests."
    )
    send_images: Annotated[bool, only(True)] = Field(True, description="Refused if false: images are not stored.")
    save_images: Annotated[bool, only(False)] = Field(False, description="Refused if true: images are not stored.")
    do_not_save_samples: bool = Field(False, description="Ignored: images are not stored.")
    do_not_save_grid: bool = Field(False, description="Ignored: there is no grid.")


class Img2ImgReply(BaseModel):
    """The images as base64, the request's fields, and JSON text about the results."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class PngInfoBody(WebuiBody):
    """An image whose settings to read."""

    image: Base64Text = Field("", description="As base64, with or without `data:image/...;base64,`.")


class ProgressBody(WebuiBody):
    """A task to report on."""

    id_task: NameText = Field("", description="The force_task_id of a request.")
    id_live_preview: int = Field(
        -1, ge=-1, le=MAX_STEPS * MAX_IMAGES, description="The preview that the client has, which is not sent again."
    )
    live_preview: bool = Field(True, description="Whether to send a preview.")
