"""Puts the application together from its configuration; the only place that binds deployments."""

from typing import Any

from ray.serve import Application

from deployments.config import AppConfig
from deployments.model import Img2ImgModel
from deployments.router import ROUTER, Router
from deployments.webui_state import WEBUI_STATE, WebuiState


def build_app(args: AppConfig) -> Application:
    """One deployment per model, named by its id, behind the router. Scaling is Serve's `deployments:` list."""
    # Serve's decorator makes these classes Deployments, which type checkers cannot see.
    model_deployment: Any = Img2ImgModel
    router_deployment: Any = Router
    webui_state: Any = WebuiState
    options = _sharing_cores() if len(args.models) > 1 else {}
    models = {
        model_id: model_deployment.options(name=model_id, **options).bind(model_id, model)
        for model_id, model in args.models.items()
    }
    return router_deployment.options(name=ROUTER).bind(args, models, webui_state.options(name=WEBUI_STATE).bind())


def _sharing_cores() -> dict[str, Any]:
    """Serve options for replicas that compute on the same cores at times.

    OpenMP's threads spin while they wait for each other, on cores that the other replica needs. Two replicas on two
    cores made 2.7 steps per second together that way, and 29 when waiting threads sleep; one alone makes 26 and 16
    (benchmarks/contention.py).
    """
    actor = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}}
    return {"ray_actor_options": actor}
