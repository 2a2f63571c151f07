"""Several values for one option make every combination, in an order that never changes."""

from __future__ import annotations

import pytest

from batch.planning.sweep import Sweep
from deployments.allowed_values import allowed
from deployments.engine.errors import InvalidRequest


def test_every_combination_is_made_in_a_fixed_order():
    texts = {"guidance_scale": "5,10", "strength": "0.3,0.5,0.7", "model": "b,a", "sampler": None}
    sweep = Sweep.parse(texts)
    assert sweep.combinations() == [
        {"model": model, "strength": strength, "guidance_scale": guidance}
        for model in ("b", "a")
        for strength in (0.3, 0.5, 0.7)
        for guidance in (5.0, 10.0)
    ]
    assert Sweep.parse(dict(reversed(texts.items()))).combinations() == sweep.combinations()


def test_without_values_there_is_one_combination_that_sets_nothing():
    assert Sweep.parse({"strength": None}).combinations() == Sweep().combinations() == [{}]


def test_one_value_is_a_sweep_of_one():
    assert Sweep.parse({"seed": "7"}).combinations() == [{"seed": 7}]


def test_value_given_twice_counts_once_and_spaces_do_not_count():
    assert Sweep.parse({"strength": "0.5, 0.50 ,0.3"}).combinations() == [{"strength": 0.5}, {"strength": 0.3}]


@pytest.mark.parametrize(
    ("param", "text", "words"),
    [
        ("strength", "0.3,1.5", "'1.5' is not a number from 0 to 1"),
        ("strength", "0.3,,0.5", "'' is not a number from 0 to 1"),
        ("strength", "nan", "'nan' is not a number from 0 to 1"),
        ("guidance_scale", "5,much", "'much' is not a number from 0 to 50"),
        ("num_inference_steps", "0", "'0' is not a whole number from 1 to 1000"),
        ("max_side", "8", "'8' is not a whole number from 16 to 65535"),
        ("seed", "-1", "'-1' is not a whole number from 0 to 9223372036854775807"),
        ("sampler", "euler,plms", "'plms' is not one of dpmpp_2m, dpmpp_2m_karras, euler"),
        ("model", "a,", "an empty value before or after a comma"),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(param: str, text: str, words: str):
    with pytest.raises(InvalidRequest) as refused:
        Sweep.parse({param: text})
    assert refused.value.param == param
    assert words in refused.value.message


def test_seeds_must_be_at_least_one():
    with pytest.raises(InvalidRequest, match="at least 1, not 0") as refused:
        Sweep(seeds=0)
    assert refused.value.param == "seeds"


def test_prompts_may_be_any_text():
    assert allowed("prompt") == allowed("negative_prompt") == "text of at most 100000 characters"
