"""The configurations that ship: Ray and the app both take them, and neither passes over a misspelt key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.build_app import build_app as build_with_ray
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.app import build_app
from deployments.autoscaling import QueuedSteps
from deployments.config import HUB_MOVES, WEBUI_STATE, AppConfig
from deployments.routing import choose_model

ROOT = Path(__file__).parents[2]
CONFIGS = ["serve_config.yaml", "configs/gpu.yaml"]
SCRIPT_MODELS = [
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-1",
    "CompVis/stable-diffusion-v1-4",
]


def read(path: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / path).read_text())


def app_config(path: str) -> AppConfig:
    return AppConfig(**read(path)["applications"][0]["args"])


@pytest.mark.parametrize("path", CONFIGS)
def test_config_is_valid_for_ray_and_names_only_deployments_that_exist(path: str) -> None:
    [app] = ServeDeploySchema.model_validate(read(path)).applications
    built = build_with_ray(build_app(AppConfig(**app.args)), name=app.name)
    names = {deployment.name for deployment in built.deployments} - {WEBUI_STATE}  # which there is nothing to say about
    assert {deployment.name for deployment in app.deployments} == names


@pytest.mark.parametrize("path", CONFIGS)
def test_config_has_no_key_that_ray_would_silently_ignore(path: str) -> None:
    config = read(path)
    [app] = config["applications"]
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    assert set(app) <= set(ServeApplicationSchema.model_fields)
    for deployment in app["deployments"]:
        assert set(deployment) <= set(DeploymentSchema.model_fields)
        assert set(deployment.get("ray_actor_options", {})) <= set(RayActorOptionsSchema.model_fields)
        assert set(deployment.get("autoscaling_config", {})) <= set(AutoscalingConfig.model_fields)


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("models", "tiny-sd15"),
        ("models", "tiny-sd15", "defaults"),
        ("defaults",),
        ("limits",),
    ],
    ids=lambda place: ".".join(place) or "args",
)
def test_misspelt_key_fails_and_is_named(place: tuple[str, ...]) -> None:
    args = read("serve_config.yaml")["applications"][0]["args"]
    section = args
    for key in place:
        section = section.setdefault(key, {})
    section["strenght"] = 0.5
    with pytest.raises(ValidationError, match="strenght"):
        AppConfig(**args)


@pytest.mark.parametrize("old_name", SCRIPT_MODELS)
def test_gpu_config_serves_the_scripts_models_under_their_old_names(old_name: str) -> None:
    config = app_config("configs/gpu.yaml")
    checkpoint = config.models[choose_model(old_name, config, seed=0)].checkpoint
    assert checkpoint == HUB_MOVES.get(old_name, old_name)


def test_embedded_checkpoints_of_the_default_config_are_in_the_repository() -> None:
    for model in app_config("serve_config.yaml").models.values():
        assert (Path(model.source) / "model_index.json").is_file()


def test_gpu_config_scales_by_the_policy_of_this_app() -> None:
    [app] = ServeDeploySchema.model_validate(read("configs/gpu.yaml")).applications
    scaled = [deployment for deployment in app.deployments if deployment.name != "router"]
    assert len(scaled) == len(app.args["models"])
    for deployment in scaled:
        policy = AutoscalingConfig.model_validate(deployment.autoscaling_config).policy
        policy.serialize_policy()
        wanted = policy.get_policy()(**policy.policy_kwargs)
        assert type(wanted).__name__ == QueuedSteps.__name__
        assert wanted.steps_per_replica == policy.policy_kwargs["steps_per_replica"]
