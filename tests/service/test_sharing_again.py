"""Pixels that could not be shared are sent, and sharing is tried again later."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from deployments.engine.request import Img2ImgOutput, Img2ImgRequest
from deployments.handles.caller import SHARE_AGAIN_S, ModelClient
from deployments.handles.shared_memory import HOST, NotShared, SharedBuffer, attach, share, write_back
from tests.support.in_process import Handle

pytestmark = pytest.mark.skipif(HOST == "", reason="this system has no memfd_create")
PIXELS = np.random.default_rng(0).integers(0, 256, (1200, 900, 3), np.uint8)  # too large for pooled memory


class Inverter:
    """Inverts pixels, and cannot map shared memory while `is_short` of file descriptors."""

    def __init__(self) -> None:
        self.is_short = False
        self.shared: list[bool] = []

    async def img2img(self, request: Img2ImgRequest, buffer: SharedBuffer | None) -> Img2ImgOutput:
        self.shared.append(buffer is not None)
        if self.is_short and buffer is not None:
            raise NotShared(buffer.path)
        request, shared = attach(request, buffer)
        return write_back(Img2ImgOutput(request.request_id, 255 - request.pixels, 1), shared)


async def inverted_by(client: ModelClient) -> None:
    output = await client.img2img(Img2ImgRequest("id", PIXELS, ""))
    assert np.array_equal(output.pixels, 255 - PIXELS)


async def test_one_failure_to_share_does_not_end_sharing() -> None:
    model, now = Inverter(), [0.0]
    handle: Any = Handle(model)
    client = ModelClient(handle, clock=lambda: now[0])
    model.is_short = True
    await inverted_by(client)
    model.is_short = False
    await inverted_by(client)
    assert model.shared == [True, False, False], "not tried at once again"
    now[0] = SHARE_AGAIN_S
    await inverted_by(client)
    assert model.shared[3:] == [True]


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_router_without_a_free_descriptor_sends_the_pixels() -> None:
    model = Inverter()
    handle: Any = Handle(model)
    client = ModelClient(handle)
    with no_free_descriptor():
        await inverted_by(client)
    assert model.shared == [False]


def test_memory_that_cannot_be_had_is_told_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError("no space")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(NotShared), share(PIXELS):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)
