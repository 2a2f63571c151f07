"""The Hugging Face Inference API's image-to-image task, as `huggingface_hub.InferenceClient` calls it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from deployments.api.base64_files import decode_file
from deployments.api.bodies import FORMS, content_type
from deployments.api.dependencies import MEDIA_TYPES, Service, in_size, result_headers
from deployments.api.json_body import JsonRoute
from deployments.config import MAX_NAME_CHARS, MAX_SIDE, Strict
from deployments.engine.errors import InvalidRequest
from deployments.images.codec import image_errors_name
from deployments.schemas import MAX_BASE64_CHARS, ImageOptions, Img2ImgOptions, OutputFormat

routes = APIRouter(route_class=JsonRoute)


def _decoded(inputs: Any) -> Any:
    if not isinstance(inputs, str):
        return inputs
    try:
        return decode_file(inputs, "inputs")
    except ValueError:
        raise PydanticCustomError("not_base64", "must be an image in base64, or a data: URL") from None


def _null_is_empty(parameters: Any) -> Any:
    return {} if parameters is None else parameters


class TargetSize(Strict):
    """The size of the reply in pixels. The source is cropped around its centre and scaled, not stretched."""

    width: int = Field(ge=1, le=MAX_SIDE, description="Pixels, within the server's limits.")
    height: int = Field(ge=1, le=MAX_SIDE, description="Pixels, within the server's limits.")


class Parameters(ImageOptions):
    """The client's parameters. Unknown ones are refused by name."""

    target_size: TargetSize | None = Field(
        None, description="Size of the reply, `{width, height}` in pixels; default: the source's size."
    )


class HuggingFaceRequest(Strict):
    """The JSON body. A body of another type is the image itself."""

    inputs: Annotated[
        bytes,
        BeforeValidator(_decoded),
        WithJsonSchema({"type": "string", "contentEncoding": "base64", "maxLength": MAX_BASE64_CHARS}),
    ] = Field(description="The image in base64 or as a data: URL: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.")
    parameters: Annotated[Parameters, BeforeValidator(_null_is_empty)] = Field(
        Parameters(), description="Options of the result."
    )

    @model_validator(mode="before")
    @classmethod
    def _wrap_raw_body(cls, body: Any) -> Any:
        return {"inputs": body} if isinstance(body, bytes) else body


@routes.post(
    "/models/{model:path}",
    response_class=Response,
    responses={200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}},
    openapi_extra={"requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def post_model(
    model: Annotated[str, Path(max_length=MAX_NAME_CHARS, description="Model id, alias, or `auto`.")],
    request: Request,
    body: HuggingFaceRequest,
    service: Service,
) -> Response:
    """Transform one image with the model of this id or alias; `auto` chooses a model by the seed.

    The reply is the image, in the format of the header Accept (default `image/png`).
    """
    _require_no_form(request)
    output_format = _format(request.headers.get("accept", ""))
    requested = body.parameters.model_dump(exclude={"target_size"})
    options = Img2ImgOptions(**requested, model=model, output_format=output_format)
    target = body.parameters.target_size
    size = None if target is None else (target.width, target.height)
    options, reshape = in_size(options, size, service.config.limits, "target_size")
    with image_errors_name("inputs"):
        prepared = await service.prepare(options, body.inputs, reshape=reshape)
    [result] = await service.images(prepared)
    encoded = await service.encode(prepared, result)
    return Response(encoded, media_type=MEDIA_TYPES[output_format], headers=result_headers(prepared, result))


def _require_no_form(request: Request) -> None:
    if (kind := content_type(request)) in FORMS:
        expected = "application/json, or the image itself as image/png, image/jpeg or application/octet-stream"
        raise InvalidRequest(f"the body's content type is {kind}: send {expected}", "content-type")


def _format(accept: str) -> OutputFormat:
    return next((name for name, media_type in MEDIA_TYPES.items() if media_type in accept), "png")
