"""What the folder job decides about each image before it runs: the same decisions whatever the other images are."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from batch.planning.naming import folded, is_image
from batch.planning.plan import choose, plan
from batch.planning.sources import Source
from batch.planning.sweep import Sweep
from batch.record.results import Job
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.errors import UnknownModel
from deployments.schemas import Img2ImgOptions

CONFIG = AppConfig(
    models={
        "often": {"checkpoint": "none", "weight": 3, "aliases": ["old/often"]},
        "seldom": {"checkpoint": "none", "weight": 1, "defaults": {"strength": 0.5, "max_side": 64}},
        "never": {"checkpoint": "none", "weight": 0},
    },
    prompts=("in oil", "in chalk", "in ink"),
)
MANY = [PurePosixPath(f"album/{number}.jpg") for number in range(400)]


def planned(*sources: str, output_format: Any = None, **options: Any) -> list[Job]:
    return plan(map(Source, sources), Img2ImgOptions(**options), Sweep(), output_format, CONFIG).jobs


def test_choices_depend_on_the_path_alone():
    jobs = {job.source: job for job in planned(*map(str, MANY))}
    assert {job.source: job for job in planned(*map(str, reversed(MANY[::7])))}.items() <= jobs.items()


def test_another_seed_in_the_configuration_draws_anew():
    other = CONFIG.model_copy(update={"seed": 1})
    ours = [choose(path, Img2ImgOptions(), CONFIG) for path in MANY]
    theirs = [choose(path, Img2ImgOptions(), other) for path in MANY]
    for field in ("seed", "model", "prompt"):
        assert [getattr(one, field) for one in ours] != [getattr(one, field) for one in theirs]


def test_models_are_drawn_by_weight_and_prompts_evenly():
    settings = [choose(path, Img2ImgOptions(), CONFIG) for path in MANY]
    models = [each.model for each in settings]
    assert set(models) == {"often", "seldom"}
    assert 0.68 < models.count("often") / len(MANY) < 0.82
    for prompt in CONFIG.prompts:
        assert 0.25 < [each.prompt for each in settings].count(prompt) / len(MANY) < 0.42


def test_prompt_and_model_are_drawn_independently():
    settings = [choose(path, Img2ImgOptions(), CONFIG) for path in MANY]
    assert len({(each.model, each.prompt) for each in settings}) == 6


def test_options_given_hold_for_all_and_leave_the_other_draws_alone():
    free = [choose(path, Img2ImgOptions(), CONFIG) for path in MANY]
    bound = [choose(path, Img2ImgOptions(seed=3, prompt="a fox"), CONFIG) for path in MANY]
    assert {(each.seed, each.prompt) for each in bound} == {(3, "a fox")}
    assert [each.model for each in bound] == [each.model for each in free]


def test_model_goes_by_its_alias_and_brings_its_defaults():
    assert choose(MANY[0], Img2ImgOptions(model="old/often"), CONFIG).model == "often"
    assert choose(MANY[0], Img2ImgOptions(model="seldom"), CONFIG).strength == 0.5


@pytest.mark.parametrize(
    ("options", "param", "error"),
    [
        ({"model": "nosuch"}, "model", UnknownModel),
        ({"num_inference_steps": 151}, "num_inference_steps", InvalidRequest),
        ({"strength": 0.01}, "strength", InvalidRequest),
        ({"max_side": 4096}, "max_side", InvalidRequest),
    ],
)
def test_what_the_app_does_not_allow_is_refused_before_anything_runs(
    options: dict[str, Any], param: str, error: type[InvalidRequest]
):
    with pytest.raises(error) as refused:
        planned("a.jpg", **options)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "sources",
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "a.jpeg", "a.JPG"),
        ("a.jpg", "A.jpg"),
        ("Sub/a.jpg", "sub/a.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
    ],
)
@pytest.mark.parametrize("output_format", [None, "png", "jpeg", "webp"])
def test_look_alikes_get_names_that_no_file_system_mixes_up(sources: tuple[str, ...], output_format: str | None):
    jobs = planned(*sources, output_format=output_format, prompt="in oil", model="often", seed=1)
    names = [folded(PurePosixPath(job.output)) for job in jobs]
    assert len(set(names)) == len(sources)


def test_stem_that_ends_in_the_words_of_a_prompt_is_told_apart():
    one = choose(PurePosixPath("cat_in.jpg"), Img2ImgOptions(seed=1, model="often", prompt="oil"), CONFIG)
    words = AppConfig(models=CONFIG.models, prompts=("oil", "in oil"))
    sources = [Source(f"cat{'_in' * times}.jpg") for times in range(30)]
    jobs = plan(sources, Img2ImgOptions(seed=1, model="often"), Sweep(), None, words).jobs
    assert one.prompt == "oil"
    assert len({job.output for job in jobs}) == len(jobs)
    assert {job.settings.prompt for job in jobs} == {"oil", "in oil"}


@pytest.mark.parametrize(
    ("source", "output_format", "suffix"),
    [
        ("a.JPG", None, ".JPG"),
        ("a.JPG", "jpeg", ".JPG"),
        ("a.bmp", None, ".bmp"),
        ("a.tif", "png", ".png"),
        ("a.png", "jpeg", ".jpg"),
    ],
)
def test_extension_is_the_sources_own_unless_the_format_changes(source: str, output_format: str | None, suffix: str):
    assert PurePosixPath(planned(f"sub/{source}", output_format=output_format)[0].output).suffix == suffix


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.Png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.TIFF"])
def test_every_image_format_counts_in_any_case(name: str):
    assert is_image(PurePosixPath(name))


@pytest.mark.parametrize("name", ["a", "a.txt", "a.heic", "a.jpg.part", "jpg"])
def test_other_files_do_not_count(name: str):
    assert not is_image(PurePosixPath(name))
