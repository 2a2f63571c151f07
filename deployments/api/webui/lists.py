"""The web UI's other routes: its lists, its settings, and the routes that are not served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from deployments.api.dependencies import Service
from deployments.api.webui.mapping import (
    SAMPLER_ALIASES,
    SCHEDULERS,
    current_model,
    find_model,
    samplers_of,
    title_of,
)
from deployments.api.webui.route import WebuiRoute
from deployments.api.webui.schemas import WebuiOptions
from deployments.api.webui.tasks import Tasks

routes = APIRouter(route_class=WebuiRoute)

EMPTY_LISTS: dict[str, Any] = {  # replies of GET routes for features that this server lacks
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
    "latent-upscale-modes": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "prompt-styles": [],
    "cmd-flags": {},
    "memory": {"ram": {"error": "not available"}, "cuda": {"error": "not available"}},
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "extensions": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "hypernetworks": [],
    "sd-vae": [],
    "sd-modules": [],
}
REFRESHES = ("refresh-checkpoints", "refresh-loras", "refresh-vae")
NOT_SERVED = {
    "txt2img": "this server does image-to-image only",
    "extra-single-image": "this server does not upscale or restore",
    "extra-batch-images": "this server does not upscale or restore",
    "interrogate": "this server does not describe images",
    "unload-checkpoint": "the models stay loaded",
    "reload-checkpoint": "the models stay loaded",
}


@routes.get("/internal/ping")
async def get_ping() -> dict[str, Any]:
    """An empty object: front ends look here for a server."""
    return {}


@routes.get("/internal/quicksettings-hint")
async def get_quicksettings_hint() -> list[Any]:
    """An empty list: no settings are on top of a page."""
    return []


@routes.get("/sdapi/v1/sd-models")
async def get_sd_models(service: Service) -> list[dict[str, Any]]:
    """The models by title; `hash` is the start of the checkpoint's revision, where it is known."""
    return [
        {
            "title": title_of(model_id, model),
            "model_name": model_id,
            "hash": model.revision and title_of(model_id, model).partition("[")[2][:-1],
            "sha256": None,
            "filename": model.checkpoint,
            "config": None,
        }
        for model_id, model in service.config.models.items()
    ]


@routes.get("/sdapi/v1/samplers")
async def get_samplers() -> list[dict[str, Any]]:
    """The samplers' names and aliases; `options` has the scheduler that `automatic` stands for."""
    return [
        {
            "name": name,
            "aliases": list(aliases),
            "options": {"scheduler": "karras"} if "karras" in samplers_of(name) else {},
        }
        for name, aliases in SAMPLER_ALIASES.items()
    ]


@routes.get("/sdapi/v1/schedulers")
async def get_schedulers() -> list[dict[str, Any]]:
    """The noise schedules of the samplers."""
    return [
        {"name": name, "label": name.capitalize(), "aliases": None, "default_rho": -1.0, "need_inner_model": False}
        for name in SCHEDULERS
    ]


@routes.get("/sdapi/v1/options")
async def get_options(service: Service, tasks: Tasks) -> dict[str, Any]:
    """The settings of requests that set nothing else."""
    options = await tasks.read_options()
    model = current_model(options.get("sd_model_checkpoint"), service.config)
    title = title_of(model, service.config.models[model])
    return WebuiOptions.model_validate(options | {"sd_model_checkpoint": title}).model_dump()


@routes.post("/sdapi/v1/options")
async def post_options(body: WebuiOptions, service: Service, tasks: Tasks) -> None:
    """Change settings, with keys those of this key; clients may send all of them back. Unknown ones are ignored."""
    options = body.model_dump(include={"send_seed"}, exclude_unset=True)
    if body.sd_model_checkpoint:
        model = find_model(body.sd_model_checkpoint, service.config, "sd_model_checkpoint")
        options["sd_model_checkpoint"] = model
    if options:
        await tasks.write_options(options)


@routes.get("/sdapi/v1/loras")
async def get_loras(service: Service, tasks: Tasks) -> list[dict[str, Any]]:
    """The LoRAs of the current model."""
    model = service.config.models[current_model(await tasks.picked(), service.config)]
    return [{"name": name, "alias": name, "path": path, "metadata": {}} for name, path in model.loras.items()]


def _add_static_route(name: str, answer: Any) -> None:
    @routes.get(f"/sdapi/v1/{name}", description="An empty list: this server has none.")
    async def get_static() -> Any:
        return answer


def _add_noop_route(name: str) -> None:
    @routes.post(f"/sdapi/v1/{name}", description="Does nothing: the lists come from the configuration.")
    async def post_noop() -> None:
        return


def _add_unserved_route(name: str, reason: str) -> None:
    @routes.post(f"/sdapi/v1/{name}", description=f"Not served: {reason}.")
    async def post_unserved() -> None:
        raise HTTPException(404, f"{name}: {reason}")


for _name, _answer in EMPTY_LISTS.items():
    _add_static_route(_name, _answer)
for _name in REFRESHES:
    _add_noop_route(_name)
for _name, _reason in NOT_SERVED.items():
    _add_unserved_route(_name, _reason)


@routes.get("/controlnet/{path:path}", include_in_schema=False)
@routes.post("/controlnet/{path:path}", include_in_schema=False)
async def no_controlnet(path: str) -> None:
    """Refuse: this server has no ControlNet."""
    raise HTTPException(404, f"controlnet/{path}: this server has no ControlNet")
