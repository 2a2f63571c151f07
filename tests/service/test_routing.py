"""Which model a request gets and with which settings."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.engine.request import Img2ImgRequest
from deployments.errors import UnknownModel
from deployments.routing import choose_model, first_ready, least_strength, pick_seed, resolve
from deployments.schemas import MAX_SEED, Img2ImgOptions, Settings


def app(*, seed: int = 0, defaults: dict[str, Any] | None = None, **models: dict[str, Any]) -> AppConfig:
    entries = {name: {"checkpoint": "x"} | model for name, model in models.items()}
    return AppConfig(models=entries or {"a": {"checkpoint": "x"}}, seed=seed, defaults=defaults or {})


WEIGHED = {"common": {"weight": 6}, "rare": {"weight": 1}, "never": {"weight": 0}, "half": {"weight": 3}}


def test_first_model_is_taken_where_none_is_named() -> None:
    assert choose_model(None, app(b={}, a={}), 0) == "b"


@pytest.mark.parametrize("name", ["sd15", "sd", "runwayml/stable-diffusion-v1-5"])
def test_model_is_found_by_id_and_alias(name: str) -> None:
    config = app(other={}, sd15={"aliases": ["sd", "runwayml/stable-diffusion-v1-5"]})
    assert choose_model(name, config, 0) == "sd15"


def test_name_in_another_case_is_the_model_unless_another_has_exactly_that() -> None:
    config = app(sd15={"aliases": ["Some/SD"]}, SD15={})
    assert [choose_model(name, config, 0) for name in ("sd15", "SD15", "Sd15", "some/sd")] == [
        "sd15",
        "SD15",
        "sd15",
        "sd15",
    ]


@pytest.mark.parametrize("name", ["sd16", "", "auto ", "sd15 "])
def test_unknown_model_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UnknownModel, match=f"no model '{name}'; models: sd15, other") as caught:
        choose_model(name, app(sd15={}, other={}), 0)
    assert caught.value.param == "model"


def test_auto_draws_by_weight() -> None:
    draws = Counter(choose_model("auto", app(**WEIGHED), seed) for seed in range(2000))
    assert draws["never"] == 0
    for name in ("common", "rare", "half"):
        share = WEIGHED[name]["weight"] / 10
        assert abs(draws[name] - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))


def test_auto_is_known_in_any_case() -> None:
    lower, *others = (
        [choose_model(name, app(**WEIGHED), seed) for seed in range(50)] for name in ("auto", "AUTO", "Auto")
    )
    assert others == [lower, lower]


def test_auto_is_the_same_every_time_for_a_seed_and_configuration() -> None:
    first, second = ([choose_model("auto", app(**WEIGHED), seed) for seed in range(50)] for _ in range(2))
    assert first == second
    assert first != [choose_model("auto", app(seed=1, **WEIGHED), seed) for seed in range(50)]


@pytest.mark.parametrize(
    ("ready", "expected"),
    [({"a", "b", "c"}, "a"), ({"b", "c"}, "c"), ({"b"}, "b"), ({"other"}, "a"), (set(), "a")],
)
def test_first_ready_of_the_fallbacks_stands_in(ready: set[str], expected: str) -> None:
    assert first_ready("a", app(a={"fallback": ["c", "b"]}, b={}, c={}, other={}), ready) == expected


def test_seed_is_the_callers_or_a_fresh_one_of_32_bits() -> None:
    assert pick_seed(Img2ImgOptions(seed=MAX_SEED)) == MAX_SEED
    assert pick_seed(Img2ImgOptions(seed=0)) == 0
    fresh = {pick_seed(Img2ImgOptions()) for _ in range(50)}
    assert len(fresh) > 40
    assert max(fresh) < 2**32


def test_what_the_caller_says_comes_before_the_models_defaults_and_those_before_the_apps() -> None:
    config = app(a={"defaults": {"strength": 0.5, "prompt": "model's"}}, defaults={"strength": 0.9, "max_side": 640})
    settings = resolve(Img2ImgOptions(prompt="caller's", output_format="webp", num_images=2), config, "a", 7)
    assert settings == Settings(
        model="a",
        prompt="caller's",
        negative_prompt=None,
        strength=0.5,
        guidance_scale=12,
        num_inference_steps=20,
        seed=7,
        sampler="dpmpp_2m",
        max_side=640,
    )


@pytest.mark.parametrize(("field", "value"), [("prompt", ""), ("negative_prompt", ""), ("guidance_scale", 0.0)])
def test_empty_and_zero_are_values_not_gaps(field: str, value: object) -> None:
    assert getattr(resolve(Img2ImgOptions(**{field: value}), app(), "a", 0), field) == value


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"num_inference_steps": 151}, "num_inference_steps", "at most 150, not 151"),
        ({"max_side": 2049}, "max_side", "at most 2048, not 2049"),
        ({"num_images": 9}, "num_images", "at most 8, not 9"),
        ({"prompt": "a" * 4001}, "prompt", "at most 4000 characters, not 4001"),
        ({"negative_prompt": "a" * 4001}, "negative_prompt", "at most 4000 characters, not 4001"),
        ({"strength": 0.04}, "strength", "the minimum is 0.05"),
        ({"strength": 0.0}, "strength", "the minimum is 0.05"),
        ({"strength": 0.3, "num_inference_steps": 3}, "strength", "the minimum is 0.334"),
        ({"seed": MAX_SEED, "num_images": 2}, "seed", f"below {MAX_SEED + 2}"),
    ],
)
def test_limit_that_is_passed_is_named_with_the_allowed_range(options: dict[str, Any], param: str, words: str) -> None:
    requested = Img2ImgOptions(**options)
    with pytest.raises(InvalidRequest, match=words) as caught:
        resolve(requested, app(), "a", pick_seed(requested))
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_inference_steps": 150},
        {"max_side": 2048},
        {"num_images": 8},
        {"prompt": "a" * 4000},
        {"strength": 0.05},
        {"strength": 1.0, "num_inference_steps": 1},
        {"seed": MAX_SEED - 1, "num_images": 2},
    ],
)
def test_limit_itself_is_allowed(options: dict[str, Any]) -> None:
    requested = Img2ImgOptions(**options)
    assert resolve(requested, app(), "a", pick_seed(requested)).model == "a"


@pytest.mark.parametrize(("steps", "least"), [(1, 1.0), (20, 0.05), (49, 0.0205), (3, 0.334), (1000, 0.001)])
def test_least_strength_is_short(steps: int, least: float) -> None:
    assert least_strength(steps) == least


def test_least_strength_runs_one_step_and_is_the_least_within_a_percent() -> None:
    for steps in range(1, 1001):
        least = least_strength(steps)
        fields = {"request_id": "", "pixels": None, "prompt": "", "num_inference_steps": steps}
        assert Img2ImgRequest(strength=least, **fields).num_denoise_steps == 1  # type: ignore[arg-type]
        assert least <= 1
        assert int(steps * 0.99 * least) == 0
        assert float(f"{least:g}") == least  # so that the message shows it whole
