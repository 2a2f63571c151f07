"""The ingress deployment: the HTTP API, and the handle that folder jobs call. Its replicas share no state."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.api import build_api
from deployments.api.webui.tasks import WebuiTasks
from deployments.config import AppConfig
from deployments.engine.request import Mask, Pixels, Priority
from deployments.handles.readiness import Readiness
from deployments.images.memory import return_large_buffers
from deployments.ray_private import call_replicas_without_proxy
from deployments.schemas import Img2ImgResult, Settings
from deployments.service import Img2ImgService
from deployments.telemetry import log_with_serve


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=128,
    max_queued_requests=128,
    graceful_shutdown_timeout_s=600,
    ray_actor_options={"num_cpus": 0.1},
    backpressure_config={"status_code": 429, "retry_after_s": 2},
)
@serve.ingress()
class Router:
    """Serves the HTTP API, and answers other parts of the application by handle."""

    def __init__(self, config: AppConfig, models: dict[str, DeploymentHandle], webui_state: DeploymentHandle) -> None:
        log_with_serve()
        call_replicas_without_proxy()
        return_large_buffers()
        readiness = Readiness(serve.get_replica_context().app_name, models)
        self._service = Img2ImgService(config, models, readiness)
        self._webui_tasks = WebuiTasks(webui_state)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        return build_api(self._service, self._webui_tasks)

    async def img2img(
        self,
        pixels: Pixels,
        settings: Settings,
        priority: Priority = "folder",
        request_id: str | None = None,
        mask: Mask | None = None,
    ) -> Img2ImgResult:
        """The image for fitted pixels and resolved settings; see Img2ImgService.img2img."""
        return await self._service.img2img(pixels, settings, priority, request_id=request_id, mask=mask)

    def config(self) -> AppConfig:
        """The configuration, for folder jobs that join the running application."""
        return self._service.config
