"""The JSON form of OpenAI's `POST /v1/images/edits`: the fields of the form, and images as data: URLs."""

from __future__ import annotations

import io
from typing import Any

from fastapi import UploadFile

from deployments.api.base64_files import decode_file
from deployments.engine.errors import InvalidRequest
from deployments.schemas import MAX_BASE64_CHARS

IMAGES = ("images", "image", "image[]")
MASKS = ("mask", "mask_image")
MAX_IMAGES = 16  # as OpenAI's; more than one is refused
_URL = {"type": "string", "maxLength": MAX_BASE64_CHARS, "description": "A data: URL."}
_IMAGE = {"type": "object", "properties": {"image_url": _URL}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "The form's fields.",
    "properties": {
        "images": {
            "type": "array",
            "items": _IMAGE,
            "maxItems": MAX_IMAGES,
            "description": 'In JSON: the image, `[{"image_url": "data:..."}]`. URLs of other kinds and `file_id` are '
            "refused. `image` may be the data: URL itself.",
        },
        "mask": {**_IMAGE, "description": 'In JSON: the mask, `{"image_url": "data:..."}`.'},
    },
}


def fields_of(body: Any) -> dict[str, Any]:
    """The values of ImageEditForm in a JSON body; null counts as left out. Raises InvalidRequest."""
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object", "body")
    fields = {name: value for name, value in body.items() if value is not None}
    images = {name: fields.pop(name) for name in IMAGES if name in fields}
    masks = {name: _upload(fields.pop(name), name) for name in MASKS if name in fields}
    uploads = [_upload(image, name) for name, value in images.items() for image in _listed(value)]
    return fields | masks | {"image": uploads}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _upload(image: Any, param: str) -> UploadFile:
    """The file in a data: URL, or in an object with one."""
    while isinstance(image, dict):
        image = image.get("image_url", image.get("url"))
    if not isinstance(image, str) or not image[:100].lstrip().lower().startswith("data:"):
        raise InvalidRequest(f"{param}: only data: URLs are read; no other URL is fetched, and no file is kept", param)
    try:
        data = decode_file(image, param)
    except ValueError as error:
        raise InvalidRequest(f"{param}: the data: URL is not base64: {error}", param) from error
    return UploadFile(io.BytesIO(data), size=len(data), filename=param)
