"""A mistake in the configuration is an error that names the key; what is left out has one place to come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config import HUB_MOVES, REPO_ROOT, AppConfig, Defaults, Limits, ModelConfig
from deployments.images.codec import PILLOW_MAX_PIXELS
from deployments.routing import resolve
from deployments.schemas import Img2ImgOptions

ONE = {"a": {"checkpoint": "some/model"}}


def refusal(**config: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        AppConfig(**{"models": ONE} | config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": {}}, "model"),
        ({"limits": {"max_pixel": 1}}, "limits.max_pixel"),
        ({"defaults": {"strenght": 0.5}}, "defaults.strenght"),
        ({"models": {"a": {"checkpoint": "x", "num_gpus": 1}}}, "models.a.num_gpus"),
        ({"models": {"a": {"checkpoint": "x", "defaults": {"steps": 5}}}}, "models.a.steps"),
    ],
)
def test_unknown_key_is_named(config: dict[str, Any], key: str) -> None:
    message = refusal(**config)
    assert f"{key}\n" in message
    assert "Extra inputs are not permitted" in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"defaults": {"strength": 1.5}}, "defaults.strength\n  Input should be less than or equal to 1"),
        ({"defaults": {"strength": float("nan")}}, "defaults.strength\n  Input should be a finite number"),
        ({"defaults": {"sampler": "plms"}}, "defaults.sampler\n  Input should be 'dpmpp_2m'"),
        ({"limits": {"max_images": 0}}, "limits.max_images\n  Input should be greater than or equal to 1"),
        ({"models": {}}, "models\n  Dictionary should have at least 1 item"),
        ({"models": {"a b": {"checkpoint": "x"}}}, "models.a b"),
        ({"models": {"a": {"checkpoint": "x", "device": "gpu"}}}, "models.a.device"),
        ({"models": {"a": {"checkpoint": "x", "dtype": "half"}}}, "models.a.dtype"),
        ({"models": {"a": {"checkpoint": "x", "max_rows": 1}}}, "models.a.max_rows"),
        ({"models": {"a": {"checkpoint": "x", "weight": -1}}}, "models.a.weight"),
        ({"models": {"a": {"checkpoint": "x", "weight": 0}}}, "models: at least one weight must be above 0"),
    ],
)
def test_value_out_of_range_is_named_with_the_range(config: dict[str, Any], words: str) -> None:
    assert words in refusal(**config)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"strength": 2}, "strength\n  Input should be less than or equal to 1"),
        ({"guidance_scale": "strong"}, "guidance_scale\n  Input should be a valid number"),
        ({"num_inference_steps": 0}, "num_inference_steps\n  Input should be greater than or equal to 1"),
    ],
)
def test_bad_default_of_a_model_is_named(bad: dict[str, Any], words: str) -> None:
    message = refusal(models={"a": {"checkpoint": "x", "defaults": bad}})
    assert "models.a" in message
    assert words in message


def test_limit_of_pixels_is_at_most_pillows() -> None:
    assert Limits(max_pixels=PILLOW_MAX_PIXELS).max_pixels == PILLOW_MAX_PIXELS
    assert f"less than or equal to {PILLOW_MAX_PIXELS}" in refusal(limits={"max_pixels": PILLOW_MAX_PIXELS + 1})


def test_frozen_configuration_cannot_be_changed_by_the_way() -> None:
    config = AppConfig(models=ONE)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"auto": {}}, "models.auto: the name 'auto' is reserved for a random choice"),
        ({"Auto": {}}, "models.Auto: the name 'Auto' is reserved for a random choice"),
        ({"router": {}}, "models.router: the name 'router' is the name of the router deployment"),
        ({"a": {"aliases": ["auto"]}}, "models.a: the name 'auto' is"),
        ({"a": {}, "b": {"aliases": ["a"]}}, "models.b: the name 'a' is already a name of 'a'"),
        ({"a": {"aliases": ["x"]}, "b": {"aliases": ["x"]}}, "models.b: the name 'x' is already a name of 'a'"),
        ({"a": {"aliases": ["x", "x"]}}, "models.a: the name 'x' is already a name of 'a'"),
        ({"a": {"fallback": ["b"]}}, "models.a.fallback: no model 'b'; models: ['a']"),
    ],
)
def test_names_that_clash_or_lead_nowhere_are_refused(models: dict[str, dict[str, Any]], words: str) -> None:
    assert words in refusal(models={name: {"checkpoint": "x"} | model for name, model in models.items()})


def test_models_defaults_lie_over_the_apps() -> None:
    config = AppConfig(
        models={"plain": {"checkpoint": "x"}, "turbo": {"checkpoint": "x", "defaults": {"guidance_scale": 0}}},
        defaults={"guidance_scale": 7, "strength": 0.6},
    )
    assert config.defaults_for("plain") == Defaults(guidance_scale=7, strength=0.6)
    assert config.defaults_for("turbo") == Defaults(guidance_scale=0, strength=0.6)


def test_model_may_set_what_the_app_changed_back_to_the_builtin_default() -> None:
    builtin = Defaults()
    config = AppConfig(
        models={"a": {"checkpoint": "x", "defaults": {"strength": builtin.strength}}}, defaults={"strength": 0.9}
    )
    assert config.defaults_for("a").strength == builtin.strength


@pytest.mark.parametrize(
    ("limits", "field", "most"),
    [({"max_side": 256}, "max_side", 256), ({"max_steps": 10}, "num_inference_steps", 10)],
)
def test_default_that_nobody_set_is_capped_by_the_limit(limits: dict[str, int], field: str, most: int) -> None:
    config = AppConfig(models=ONE, limits=limits)
    settings = resolve(Img2ImgOptions(strength=1), config, "a", seed=0)
    assert getattr(settings, field) == most


@pytest.mark.parametrize("limits", [{"max_prompt_chars": 10}, {"max_steps": 1}, {"max_steps": 3}])
def test_request_that_leaves_everything_out_is_within_any_limits(limits: dict[str, int]) -> None:
    settings = resolve(Img2ImgOptions(), AppConfig(models=ONE, limits=limits), "a", seed=0)
    assert int(settings.num_inference_steps * settings.strength) >= 1


def test_default_prompt_above_its_limit_is_named() -> None:
    message = refusal(limits={"max_prompt_chars": 10}, defaults={"prompt": "in the style of monet"})
    assert "defaults.prompt: it has more characters than limits.max_prompt_chars, 10" in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"defaults": {"max_side": 512}}, "defaults.max_side: 512 is above limits.max_side, 256"),
        ({"defaults": {"num_inference_steps": 20}}, "defaults.num_inference_steps: 20 is above limits.max_steps, 10"),
        (
            {"models": {"a": {"checkpoint": "x", "defaults": {"max_side": "768"}}}},
            "models.a.defaults.max_side: 768 is above limits.max_side, 256",
        ),
    ],
)
def test_default_above_its_limit_is_named(config: dict[str, Any], words: str) -> None:
    assert words in refusal(limits={"max_side": 256, "max_steps": 10}, **config)


def test_defaults_are_the_scripts() -> None:
    defaults = Defaults()
    assert (defaults.strength, defaults.guidance_scale, defaults.num_inference_steps) == (0.3, 12, 20)
    assert defaults.max_side == 512


def test_relative_checkpoint_starts_at_the_repository_wherever_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ModelConfig(checkpoint="data/models/tiny-sd15").source
    assert source == str(REPO_ROOT / "data" / "models" / "tiny-sd15")
    assert (Path(source) / "model_index.json").is_file()


def test_absolute_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    assert ModelConfig(checkpoint=str(tmp_path)).source == str(tmp_path)


@pytest.mark.parametrize("moved", HUB_MOVES)
def test_hub_id_that_moved_is_followed(moved: str) -> None:
    source = ModelConfig(checkpoint=moved).source
    assert source == HUB_MOVES[moved] != moved
    assert ModelConfig(checkpoint=source).source == source


def test_other_hub_ids_stay_as_they_are() -> None:
    assert ModelConfig(checkpoint="stabilityai/sdxl-turbo").source == "stabilityai/sdxl-turbo"
