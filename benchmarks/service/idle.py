"""The application with models that do nothing: what is left is the service itself."""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.api.webui.state import WebuiState
from deployments.config import ROUTER, AppConfig
from deployments.engine.request import Img2ImgOutput, Img2ImgRequest, Timings
from deployments.handles.shared_memory import SharedBuffer, attach, write_back
from deployments.router import Router


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class IdleModel:
    """Returns the source as the result."""

    async def img2img(self, request: Img2ImgRequest, buffer: SharedBuffer | None = None) -> Img2ImgOutput:
        """The request's own pixels."""
        request, shared = attach(request, buffer)
        output = Img2ImgOutput(request.request_id, request.pixels, request.num_denoise_steps, "", Timings())
        return write_back(output, shared)

    def describe(self) -> dict[str, Any]:
        """Nothing: no checkpoint is loaded."""
        return {}


def build_app(args: AppConfig) -> Application:
    """The application as deployments.app binds it, with IdleModel for every model."""
    idle: Any = IdleModel
    router: Any = Router
    webui_state: Any = WebuiState
    models = {model_id: idle.options(name=model_id).bind() for model_id in args.models}
    return router.options(name=ROUTER).bind(args, models, webui_state.bind())
