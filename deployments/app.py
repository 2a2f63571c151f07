"""Builds the application from its configuration. Deployments are bound nowhere else."""

from typing import Any

from ray.serve import Application

from deployments.api.webui.state import WebuiState
from deployments.config import ROUTER, WEBUI_STATE, AppConfig
from deployments.model import Img2ImgModel
from deployments.router import Router


def build_app(args: AppConfig) -> Application:
    """One deployment per model, named by its id, behind the router. Serve's `deployments:` list sets the scaling."""
    # Serve's decorator makes these classes Deployments, which type checkers cannot see.
    model_deployment: Any = Img2ImgModel
    router_deployment: Any = Router
    webui_state: Any = WebuiState
    models = {
        model_id: model_deployment.options(name=model_id).bind(model_id, model)
        for model_id, model in args.models.items()
    }
    return router_deployment.options(name=ROUTER).bind(args, models, webui_state.options(name=WEBUI_STATE).bind())
