"""The requests of `benchmarks.service.hostile`, in process: each is answered, none by a server error."""

from __future__ import annotations

import pytest

from benchmarks.service.hostile_requests import hostile_requests
from tests.support.in_process import api

REQUESTS = {name: request for name, request in hostile_requests().items() if request.leave_after_s is None}
REFUSED = {400, 401, 403, 404, 405, 413, 415, 422}
SERVED = {"a text of 64 MiB in a PNG", "a colour profile of 64 MiB", "an animation", "a mask of another shape"} | {
    "a line of 4000 x 1, cropped to a square",
    "a line of 1 x 4000, cropped to a line across",
    "half a character",
    "a password that is no text",
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_hostile_request_is_refused_or_served(name: str) -> None:
    request = REQUESTS[name]
    async with api(models={"tiny-sd15": {"checkpoint": "none"}}) as served:
        reply = await served.client.request(request.method, request.path, headers=request.headers, **request.arguments)
    assert reply.status_code in ({200} if name in SERVED else REFUSED), reply.text
