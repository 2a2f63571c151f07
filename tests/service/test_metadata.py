import itertools
from typing import Any

import pytest

from deployments.engine.request import Sampler
from deployments.images.metadata import SAMPLER_NAMES, format_parameters, parse_parameters
from deployments.schemas import Settings

NASTY = [
    "",
    " ",
    "a fox",
    " a fox, in the snow ",
    "line one\nline two",
    "\n\nlate start, early end\n\n",
    "Steps: 3",
    "a fox\nSteps: 3, Sampler: Euler, CFG scale: 1, Seed: 5",
    "Negative prompt: not really",
    "a fox\nNegative prompt: a trap\nNegative prompt: another",
    "Negative prompt:",
    'quotes "inside", and: colons, \\ backslashes \\" too',
    '"',
    "carriage\r\nreturn\rs and \u2028 odd line \x0b ends \x85",
    "unicode: é 漢字 🦊 ‮right to left",
    "(weights:1.2), [brackets], <lora:style:0.8>, {a|b}",
    'Version: "unclosed',
    "\ttabs\t, nul \x00 and bell \x07",
    "\ufeffmarked",
]


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "model": "sd15",
        "prompt": "a fox",
        "negative_prompt": None,
        "strength": 0.65,
        "guidance_scale": 7.0,
        "num_inference_steps": 20,
        "seed": 123,
        "sampler": "dpmpp_2m_karras",
        "max_side": 512,
    }
    return Settings.model_construct(**{**values, **changes})


def test_text_reads_as_the_web_ui_writes_it() -> None:
    text = format_parameters(settings(negative_prompt="blur, noise"), (512, 384))
    prompt, negative, pairs = text.split("\n")
    assert (prompt, negative) == ("a fox", "Negative prompt: blur, noise")
    assert pairs.startswith(
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 123, Size: 512x384, "
        "Model: sd15, Denoising strength: 0.65, Version: img2img-serve "
    )


@pytest.mark.parametrize("negative", [None, ""])
def test_empty_negative_prompt_has_no_line(negative: str | None) -> None:
    text = format_parameters(settings(negative_prompt=negative), (512, 512))
    assert "Negative" not in text
    assert parse_parameters(text)["Negative prompt"] == ""


@pytest.mark.parametrize(("prompt", "negative"), list(itertools.product(NASTY, NASTY)))
def test_any_prompt_reads_back_as_it_was(prompt: str, negative: str) -> None:
    parsed = parse_parameters(format_parameters(settings(prompt=prompt, negative_prompt=negative), (640, 512)))
    version = parsed.pop("Version")
    assert version.startswith("img2img-serve ")
    assert parsed == {
        "Prompt": prompt,
        "Negative prompt": negative,
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7.0",
        "Seed": "123",
        "Size-1": "640",
        "Size-2": "512",
        "Model": "sd15",
        "Denoising strength": "0.65",
    }


def test_ordinary_prompts_are_written_once() -> None:
    text = format_parameters(settings(prompt="a fox\nin the snow", negative_prompt="blur"), (512, 512))
    assert text.count("fox") == text.count("blur") == 1


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_sampler_can_be_told_from_the_text(sampler: Sampler) -> None:
    parsed = parse_parameters(format_parameters(settings(sampler=sampler), (512, 512)))
    assert SAMPLER_NAMES[sampler] == (parsed["Sampler"], parsed["Schedule type"])
    assert list(SAMPLER_NAMES.values()).count(SAMPLER_NAMES[sampler]) == 1


def test_text_of_the_web_ui_itself_is_understood() -> None:
    text = (
        "portrait, <lora:film:0.6>\nsoft light\nNegative prompt: (bad hands:1.4),\nblurry\n"
        "Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 7, Size: 512x768, Model hash: 45dee52b, "
        'Model: film, Clip skip: 2, Lora hashes: "film: 0a1b2c, grain: 3d4e5f", TI: "say \\"hi\\"", Version: v1.10.1\n'
    )
    parsed = parse_parameters(text)
    assert parsed["Prompt"] == "portrait, <lora:film:0.6>\nsoft light"
    assert parsed["Negative prompt"] == "(bad hands:1.4),\nblurry"
    assert parsed["Lora hashes"] == "film: 0a1b2c, grain: 3d4e5f"
    assert parsed["TI"] == 'say "hi"'
    assert (parsed["Size-1"], parsed["Size-2"], parsed["Version"]) == ("512", "768", "v1.10.1")


def test_last_line_with_too_few_pairs_belongs_to_the_prompt() -> None:
    assert parse_parameters("a fox\nstyle: ink, mood: calm") == {
        "Prompt": "a fox\nstyle: ink, mood: calm",
        "Negative prompt": "",
    }
