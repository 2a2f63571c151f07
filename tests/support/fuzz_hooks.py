"""Gives three in four of schemathesis's generated bodies sound images: random bytes test only the decoder."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import schemathesis

from tests.support.images import file_of
from tests.support.reference import smooth_image

IMAGE = file_of(smooth_image(1, 32, 24), "png")
FILES = ("image", "image[]", "mask")
BASE64 = ("inputs", "mask")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or zlib.crc32(repr(body).encode()) % 4 == 0:
        return body
    media_type = context.operation.definition.raw.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in media_type:
        return body | {name: IMAGE for name in FILES if name in body}
    encoded = base64.b64encode(IMAGE).decode()
    images: dict[str, Any] = {name: encoded for name in BASE64 if name in body}
    if "init_images" in body:
        images["init_images"] = [encoded]
    return body | images
