"""What results are called: readable, exact, and never the same for two different results."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from batch.planning.naming import folded, output_name, prompt_slug, shortest
from deployments.config import Defaults
from deployments.schemas import Settings


def name(source: str = "sub/cat.jpg", extension: str = ".jpg", **changed: Any) -> str:
    settings = {
        "model": "sd15",
        "prompt": "in the style of picasso",
        "negative_prompt": None,
        "strength": 0.3,
        "guidance_scale": 12.0,
        "num_inference_steps": 20,
        "seed": 7,
        "sampler": "dpmpp_2m",
        "max_side": 512,
    }
    return output_name(PurePosixPath(source), Settings(**{**settings, **changed}), extension)


def test_plain_name_shows_every_setting():
    assert name() == "cat_in_the_style_of_picasso_str0.3_guide12_steps20_seed7_sd15.jpg"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.65, "0.65"),
        (0.7, "0.7"),
        (0.71, "0.71"),
        (12.0, "12"),
        (7.5, "7.5"),
        (1e-5, "0.00001"),
        (0.1 + 0.2, "0.30000000000000004"),
    ],
)
def test_numbers_are_written_in_shortest_exact_form(number: float, text: str):
    assert shortest(number) == text
    assert float(text) == number


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("Van Gogh style!", "Van_Gogh_style"),
        ("oil-painting,  thick   paint", "oil_painting_thick_paint"),
        ("猫の絵、水彩", "猫の絵水彩"),
        ("cafe\u0301", "caf\u00e9"),
        ("../../etc/passwd", "etcpasswd"),
        ("a" * 29 + " bcd", "a" * 29),
        ("", ""),
    ],
)
def test_slug_keeps_letters_of_any_script_and_nothing_a_path_could_use(prompt: str, slug: str):
    assert prompt_slug(prompt) == slug


@pytest.mark.parametrize(
    "changed",
    [
        {"strength": 0.301},
        {"guidance_scale": 12.04},
        {"num_inference_steps": 21},
        {"seed": 8},
        {"model": "sd21"},
        {"negative_prompt": "blurry"},
        {"negative_prompt": ""},
        {"sampler": "euler"},
        {"max_side": 256},
        {"prompt": "in the style of Picasso"},
        {"prompt": "in the style of picasso!"},
        {"prompt": "in the style-of picasso"},
        {"prompt": "in  the style of picasso"},
        {"source": "sub/cat.png", "extension": ".jpg"},
        {"source": "sub/cat.gif", "extension": ".jpg"},
    ],
)
def test_any_other_setting_gives_a_name_that_differs_beyond_case(changed: dict[str, Any]):
    assert name(**changed).casefold() != name().casefold()


def test_prompts_that_agree_in_thirty_characters_get_different_names():
    same = "ghibli style, a fantasy landscape with "
    assert name(prompt=same + "castles") != name(prompt=same + "rivers")


def test_a_model_default_that_is_not_shown_needs_no_digest():
    settings = Settings(
        model="tiny", prompt="a cat", negative_prompt="blurry", strength=0.5, guidance_scale=1,
        num_inference_steps=4, seed=0, sampler="lcm", max_side=64,
    )  # fmt: skip
    defaults = Defaults(negative_prompt="blurry", sampler="lcm", max_side=64)
    plain = output_name(PurePosixPath("a.png"), settings, ".png", defaults=defaults)
    assert plain == "a_a_cat_str0.5_guide1_steps4_seed0_tiny.png"


def test_digest_tells_case_twins_apart_on_a_file_system_that_ignores_case():
    settings = Settings(**{**Defaults().model_dump(), "model": "m", "seed": 0})
    twins = [output_name(PurePosixPath(name), settings, ".jpg", digits=6) for name in ("a.jpg", "A.jpg")]
    assert folded(PurePosixPath(twins[0])) != folded(PurePosixPath(twins[1]))


@pytest.mark.parametrize(("one", "other"), [("A/é.png", "a/e\u0301.png"), ("straße", "STRASSE"), ("ı", "I")])
def test_folding_joins_what_some_file_system_holds_for_one_name(one: str, other: str):
    assert folded(PurePosixPath(one)) == folded(PurePosixPath(other))


@pytest.mark.parametrize("letter", ["x", "é", "猫", "🐈"])
def test_long_stems_keep_the_name_within_255_bytes_and_apart(letter: str):
    stem = letter * (250 // len(letter.encode()))
    one, other = name(f"{stem}1.jpg"), name(f"{stem}2.jpg")
    assert len(one.encode()) <= 255
    assert one != other
    assert one.startswith(letter)
    assert one.endswith(".jpg")


def test_the_longest_settings_still_leave_a_valid_name():
    long = name(f"{'猫' * 80}.jpg", model="m" * 100, prompt="猫" * 200, seed=2**63 - 1, strength=0.1 + 0.2)
    assert len(long.encode()) <= 255
    assert "m" * 100 in long
