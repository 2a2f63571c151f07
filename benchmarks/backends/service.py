"""This project's service over HTTP, on a Ray cluster of its own."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import httpx2 as httpx
import numpy as np
from PIL import Image

from benchmarks.backends.serving import APP, start_service, stop_ray
from benchmarks.backends.spec import BackendSpec
from deployments.engine.request import Img2ImgRequest, Pixels

MODEL = "model"
POLL_S = 0.5


class Service:
    """The whole application on a free port, deployed from a Serve configuration as in production."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec

    async def open(self) -> None:
        url = await start_service(self._application())
        unlimited = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=None, limits=unlimited)
        model = await self._model()
        while model.get("compiling", True):  # it serves meanwhile, but that is not what is measured
            await asyncio.sleep(POLL_S)
            model = await self._model()
        self.dtype: str = model["dtype"]

    async def run(self, request: Img2ImgRequest) -> Pixels:
        buffer = BytesIO()
        Image.fromarray(request.pixels).save(buffer, "png", compress_level=1)
        fields = {
            "prompt": request.prompt,
            "strength": str(request.strength),
            "guidance_scale": str(request.guidance_scale),
            "num_inference_steps": str(request.num_inference_steps),
            "seed": str(request.seed),
            "max_side": str(max(request.pixels.shape)),
        }
        reply = await self._client.post("/v1/img2img", data=fields, files={"image": ("image.png", buffer.getvalue())})
        if reply.is_error:
            raise RuntimeError(f"the service answered {reply.status_code}: {reply.text[:500]}")
        assert int(reply.headers["x-steps"]) == request.num_denoise_steps, "the service ran another number of steps"
        return np.array(Image.open(BytesIO(reply.content)))

    async def close(self) -> None:
        await self._client.aclose()
        stop_ray()

    async def _model(self) -> dict[str, Any]:
        """The service's description of its only model."""
        models: dict[str, Any] = (await self._client.get("/v1/models")).raise_for_status().json()
        return dict(models["data"][0])

    def _application(self) -> dict[str, Any]:
        no_limit = {"max_queued_requests": -1}  # waiting is measured here, not refusing
        return {
            "name": APP,
            "import_path": "deployments.app:build_app",
            "args": {
                "models": {MODEL: self._spec.model_args},
                "limits": {"max_side": max(2048, self._spec.size), "deadline_s": 3600},
            },
            "deployments": [
                {"name": "router", **no_limit},
                {"name": MODEL, "ray_actor_options": actor_options(self._spec), **no_limit},
            ],
        }


def actor_options(spec: BackendSpec) -> dict[str, float]:
    """A whole GPU on CUDA; almost no CPU, so that Ray always finds room."""
    return {"num_cpus": 0.1, "num_gpus": float(spec.device == "cuda")}
