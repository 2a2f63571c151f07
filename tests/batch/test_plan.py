"""The jobs of rows and sweeps: every requested result once, under a name of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import PurePosixPath
from typing import Any

import pytest

from batch.planning.naming import folded
from batch.planning.plan import Plan, plan
from batch.planning.sources import Source
from batch.planning.sweep import Sweep
from batch.storage.storage import FileInfo
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.schemas import MAX_SEED, Img2ImgOptions

CONFIG = AppConfig(
    models={
        "one": {"checkpoint": "none", "revision": "abc", "aliases": ["first"]},
        "two": {"checkpoint": "none", "revision": "abc", "defaults": {"strength": 0.5, "num_inference_steps": 4}},
    },
    prompts=("in oil", "in chalk", "in ink"),
)
FIXED = {"model": "one", "prompt": "in oil", "seed": 7}


def source(path: str = "sub/a.jpg", mask: str | None = None, **fields: Any) -> Source:
    known = {name: fields.pop(name) for name in ("output", "where") if name in fields}
    info = None if mask is None else FileInfo(mask, 1, 1)
    return Source(path, 1, 1, Img2ImgOptions(**fields), info, **known)


def planned(*sources: Source, sweep: Sweep | None = None, output_format: Any = None, **options: Any) -> Plan:
    return plan(sources, Img2ImgOptions(**options), sweep or Sweep(), output_format, CONFIG)


def names_of(plan: Plan) -> list[str]:
    return [job.output for job in plan.jobs]


def test_job_knows_the_files_it_is_made_of_so_that_a_change_is_seen():
    before = Source("a.jpg", size=10, mtime_ns=20, mask=FileInfo("sky.png", 30, 40))
    changes = [{}, {"size": 11}, {"mtime_ns": 21}, {"mask": FileInfo("sky.png", 31, 40)}, {"mask": None}]
    jobs = [planned(replace(before, **change)).jobs[0] for change in changes]
    assert (jobs[0].source_bytes, jobs[0].source_mtime_ns, jobs[0].revision) == (10, 20, "abc")
    assert (jobs[0].mask, jobs[0].mask_bytes, jobs[0].mask_mtime_ns) == ("sky.png", 30, 40)
    assert len({job.digest for job in jobs}) == len(jobs)


def test_settings_of_a_source_precede_the_sweep_and_the_sweep_precedes_the_options():
    row = source(strength=0.9, prompt="a fox")
    (job,) = planned(row, sweep=Sweep({"guidance_scale": (4.0,), "strength": (0.4,)}), strength=0.5, seed=3).jobs
    settings = job.settings
    assert (settings.strength, settings.prompt, settings.guidance_scale, settings.seed) == (0.9, "a fox", 4.0, 3)


def test_setting_of_a_row_leaves_the_draws_of_the_other_settings_alone():
    (plain,) = planned(source()).jobs
    (special,) = planned(source(strength=0.9)).jobs
    assert special.settings == plain.settings.model_copy(update={"strength": 0.9})


def test_sweep_makes_every_combination_of_every_image():
    sweep = Sweep.parse({"strength": "0.3,0.5", "guidance_scale": "5,10", "model": "one,two"}, seeds=3)
    jobs = planned(source("a.jpg"), source("b.jpg"), sweep=sweep).jobs
    settings = [(job.source, job.settings.model, job.settings.strength, job.settings.guidance_scale) for job in jobs]
    assert settings[::3] == list(product(("a.jpg", "b.jpg"), ("one", "two"), (0.3, 0.5), (5.0, 10.0)))
    assert len({job.output for job in jobs}) == len(jobs) == 48


@pytest.mark.parametrize("options", [{}, {"seed": 11}])
def test_seeds_are_each_images_own_and_those_that_follow(options: dict[str, int]):
    first = [job.settings.seed for job in planned(source("a.jpg"), source("b.jpg"), **options).jobs]
    jobs = planned(source("a.jpg"), source("b.jpg"), sweep=Sweep(seeds=4), **options).jobs
    assert [job.settings.seed for job in jobs] == [seed + number for seed in first for number in range(4)]
    assert {job.settings.model for job in jobs[:4]} == {jobs[0].settings.model}


def test_result_that_is_requested_twice_is_made_once_and_counted():
    aliases = planned(source(), sweep=Sweep.parse({"model": "one,first"}), seed=1)
    pinned = planned(source(strength=0.4), sweep=Sweep.parse({"strength": "0.3,0.5,0.7"}))
    rows = planned(source(), source(strength=0.9), source())
    assert [(len(plan.jobs), plan.num_duplicates) for plan in (aliases, pinned, rows)] == [(1, 1), (1, 2), (2, 1)]


def test_output_of_a_row_is_the_results_name_whatever_the_format():
    assert names_of(planned(source(output="best/x.PNG"), output_format="jpeg")) == ["best/x.PNG"]


def test_output_of_a_row_gets_the_settings_where_a_sweep_makes_several():
    row = source("sub/a.jpg", output="best/x.png", **FIXED)
    assert names_of(planned(row, sweep=Sweep.parse({"strength": "0.3,0.5"}))) == [
        "best/x_in_oil_str0.3_guide12_steps20_seed7_one.png",
        "best/x_in_oil_str0.5_guide12_steps20_seed7_one.png",
    ]


def test_name_that_a_row_asks_for_is_left_to_it():
    (plain,) = names_of(planned(source("a.jpg", **FIXED)))
    taken, moved = names_of(planned(source("b.jpg", output=plain.upper()), source("a.jpg", **FIXED)))
    assert taken == plain.upper()
    assert folded(PurePosixPath(moved)) != folded(PurePosixPath(plain))


def test_even_the_name_with_a_digest_can_be_taken():
    rows = [source("a.jpg", **FIXED)]
    for number in range(3):
        rows.append(source("b.jpg", output=names_of(planned(*rows))[0], seed=number))
    names = names_of(planned(*rows))
    assert len({folded(PurePosixPath(name)) for name in names}) == 4
    assert [len(name) - len(names[1]) for name in names] == [65, 0, 7, 17]


def test_masks_and_hidden_settings_of_one_image_give_different_names():
    rows = [
        source("a.jpg", **FIXED),
        source("a.jpg", mask="sky.png", **FIXED),
        source("a.jpg", mask="sea.png", **FIXED),
        source("a.jpg", negative_prompt="dull", **FIXED),
        source("a.jpg", sampler="euler", **FIXED),
        source("a.jpg", prompt="In oil", model="one", seed=7),
    ]
    names = names_of(planned(*rows))
    assert len({folded(PurePosixPath(name)) for name in names}) == len(rows)
    assert names[0] == "a_in_oil_str0.3_guide12_steps20_seed7_one.jpg"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_inference_steps": 151}, "num_inference_steps must be at most 150, not 151"),
        ({"max_side": 4096}, "max_side must be at most 2048"),
        ({"model": "green"}, "no model 'green'; models: one, two"),
        ({"num_inference_steps": 2, "model": "one"}, "strength 0.3 runs no step of num_inference_steps 2"),
        ({"seed": MAX_SEED}, f"seed must be at most {MAX_SEED - 1} for 2 seeds"),
    ],
)
def test_row_that_asks_for_what_the_app_does_not_allow_is_named(fields: dict[str, Any], words: str):
    with pytest.raises(InvalidRequest) as refused:
        planned(source(), source(where="p.csv, row 7", **fields), sweep=Sweep(seeds=2))
    assert refused.value.message.startswith(f"p.csv, row 7: {words}")
    assert refused.value.param == "input"


def test_option_that_the_app_does_not_allow_is_not_blamed_on_a_row_or_caption():
    for row in (source(where="p.csv, row 7", prompt="a fox"), source(prompt="from a caption")):
        with pytest.raises(InvalidRequest) as refused:
            planned(row, strength=0.01)
        assert refused.value.param == "strength"
        assert "p.csv" not in refused.value.message


def test_caption_that_the_app_does_not_allow_costs_its_image_only():
    result = planned(source("a.jpg", prompt="x" * 4001), source("b.jpg"))
    (failure,) = result.failures
    assert (failure.source, failure.error_type) == ("a.jpg", "InvalidRequest")
    assert "caption: prompt must have at most 4000 characters, not 4001" in str(failure.error)
    assert [job.source for job in result.jobs] == ["b.jpg"]
