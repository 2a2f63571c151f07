"""Generated texts: what is written into an image is read back, and any text at all is parsed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batch.planning.naming import NAME_BYTES, folded, output_name, valid_name
from batch.planning.plan import plan
from batch.planning.sources import Source
from batch.planning.sweep import Sweep
from deployments.api.webui.mapping import split_loras
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.images.codec import encode_image
from deployments.images.metadata import SAMPLER_NAMES, format_parameters, parse_parameters, read_parameters
from deployments.schemas import Img2ImgOptions, Settings
from tests.support.images import gradient

few = settings(max_examples=50, deadline=None, derandomize=True, database=None)
CONFIG = AppConfig(models={"sd15": {"checkpoint": "a"}, "sd21": {"checkpoint": "b"}})
PIECES = [
    "\n",
    "Negative prompt:",
    "Steps: 20, ",
    "Seed: 5",
    '"',
    "\\",
    ", ",
    ": ",
    "<lora:",
    "a:1>",
    "\ufeff",
    "\r",
    "\0",
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=12).map("".join)
unicode_texts = texts.map(lambda text: text.encode(errors="replace").decode())
file_names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=80)
some_settings = st.builds(
    Settings,
    model=st.sampled_from(["sd15", "sd21"]),
    prompt=unicode_texts,
    negative_prompt=st.none() | unicode_texts,
    strength=st.floats(0.1, 1),
    guidance_scale=st.floats(0, 50),
    num_inference_steps=st.integers(1, 1000),
    seed=st.integers(0, 2**63 - 1),
    sampler=st.sampled_from(list(SAMPLER_NAMES)),
    max_side=st.integers(16, 2048),
    loras=st.none() | st.just("ink:0.8,oil.v2:-1"),
)


@few
@given(some_settings, st.sampled_from(["png", "jpeg", "webp"]))
def test_any_parameters_written_are_read_back(values: Settings, format: Any) -> None:
    text = format_parameters(values, (640, 512))
    read = read_parameters(encode_image(gradient(8, 8), format, parameters=text))
    parsed = parse_parameters(read or "")
    assert (parsed["Prompt"], parsed["Negative prompt"]) == (values.prompt, values.negative_prompt or "")
    assert float(parsed["Denoising strength"]) == values.strength
    assert (parsed["Seed"], parsed["Size-1"], parsed.get("Loras")) == (str(values.seed), "640", values.loras)


@few
@given(texts)
def test_any_text_is_parsed(text: str) -> None:
    assert {"Prompt", "Negative prompt"} <= parse_parameters(text).keys()


@few
@given(texts)
def test_any_prompt_is_split_from_its_loras_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert "<lora:a:1>" not in split_loras(text)[0]


@few
@given(file_names, some_settings)
def test_any_name_and_prompt_make_a_valid_file_name(stem: str, values: Settings) -> None:
    name = output_name(PurePosixPath(f"{stem}.png"), values, ".png")
    assert len(name.encode()) <= NAME_BYTES
    assert PurePosixPath(name).name == name
    assert "\0" not in name
    assert valid_name(PurePosixPath(name))
    assert name.endswith(".png")


@few
@given(st.sets(file_names, min_size=2, max_size=5), st.lists(unicode_texts, min_size=1, max_size=2))
def test_no_two_sources_have_one_result(stems: set[str], prompts: list[str]) -> None:
    sources = [
        Source(f"{stem}{extension}", overrides=Img2ImgOptions(prompt=prompt))
        for stem in stems
        for extension in (".png", ".jpg")
        for prompt in prompts
    ]
    planned = plan(sources, Img2ImgOptions(model="sd15"), Sweep({}), "webp", CONFIG)
    names = [folded(PurePosixPath(job.output)) for job in planned.jobs]
    assert len(set(names)) == len(names) == len(sources) - planned.num_duplicates
