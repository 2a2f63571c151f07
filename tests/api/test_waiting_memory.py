"""What a request holds while it waits for its model."""

from __future__ import annotations

import base64
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.api.webui import routes
from deployments.api.webui.schemas import Img2ImgBody
from deployments.config import AppConfig
from deployments.images import flow
from deployments.images.masks import MaskFile
from deployments.service import PreparedRequest
from tests.service.test_flow import SETTINGS
from tests.support.images import file_of, gradient


class Waits(Exception):
    """Raised in place of waiting."""


async def test_web_ui_request_that_waits_does_not_hold_its_decoded_mask() -> None:
    config, held = AppConfig(models={"m": {"checkpoint": "none"}}), []

    async def prepare(options: object, image: bytes, *, mask: MaskFile, reshape: Any) -> PreparedRequest:
        assert mask.image is not None
        held.append(weakref.ref(mask.image.pixels))
        prepared = flow.prepare(flow.decode(image, config.limits), config.limits, 64, mask, reshape)
        return PreparedRequest(SETTINGS, 1, "png", prepared)

    async def picked() -> None:
        return None

    async def images(*_: object) -> None:
        gc.collect()
        assert [mask() for mask in held] == [None]
        raise Waits

    white = base64.b64encode(file_of(np.full((32, 48), 255, np.uint8), "png")).decode()
    body = Img2ImgBody(init_images=[base64.b64encode(file_of(gradient(), "png")).decode()], mask=white)
    service: Any = SimpleNamespace(config=config, prepare=prepare)
    tasks: Any = SimpleNamespace(picked=picked, images=images)
    with pytest.raises(Waits):
        await routes.post_img2img(body, service, tasks)
