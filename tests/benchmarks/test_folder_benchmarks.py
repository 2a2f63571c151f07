from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batch.record.results import RESULTS_FILE
from benchmarks.folder.bounds import Bound, FolderRecord, conclude, median_within, quarter_rates, steady_rate
from benchmarks.folder.engine_only import request_of
from benchmarks.folder.rate import is_ready
from benchmarks.folder.sampler import Sample, kind_of
from benchmarks.folder.scale import Run, bounds_of
from benchmarks.folder.setup import MODEL, JobFailed, application, finish_times, images_with_noise, num_results
from deployments.config import REPO_ROOT, AppConfig
from tests.support.records import FACTS

KINDS = ("driver", "workers", "tracker", "replica", "router", "rest")


def samples_of(images: int, growth: dict[str, float]) -> list[Sample]:
    """A sample for each image; every kind of process holds 100 MiB, to which `growth` adds over all images."""
    return [
        Sample(
            second=float(done),
            done=done,
            uss_mib={kind: 100 + growth.get(kind, 0.0) * done / images for kind in KINDS},
            cpu_s=dict.fromkeys(KINDS, 1.0),
            pss_mib=1000.0,
            load_average=0.0,
            pace=1.0,
        )
        for done in range(images + 1)
    ]


def write_record(output: Path, *rows: dict[str, Any]) -> None:
    (output / RESULTS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def finished(second: float, error_type: str | None = None) -> dict[str, Any]:
    moment = f"2026-01-01T00:00:{second:06.3f}+00:00"
    return {"source": f"{second}.jpg", "finished_at": moment, "error_type": error_type, "error": error_type}


def test_a_job_that_slows_down_shows_in_the_quarters() -> None:
    steps = np.repeat([0.1, 0.1, 0.2, 0.4], 25)
    assert quarter_rates([7.0, *(7 + np.cumsum(steps))]) == pytest.approx([10, 10, 5, 2.5])


def test_start_up_is_no_part_of_the_first_quarter() -> None:
    even = [second / 10 for second in range(101)]
    assert quarter_rates([1000 + second for second in even]) == pytest.approx([10] * 4)


def test_steady_rate_leaves_out_what_start_up_delays() -> None:
    slow_start = [30.0] * 16 + [30 + second / 4 for second in range(1, 65)]
    assert steady_rate(slow_start, skipped=16) == pytest.approx(4.0)


def test_one_odd_sample_moves_no_median_and_those_outside_do_not_count() -> None:
    points = [(99, 9e9), (100, 5.0), (110, 1e6), (149, 6.0), (150, 9e9)]
    assert median_within(points, 100, 150) == 6.0


def test_a_stretch_without_a_sample_is_an_error_not_a_number() -> None:
    with pytest.raises(ValueError, match="between 100 and 150 images"):
        median_within([(99, 1.0), (150, 1.0)], 100, 150)


@pytest.mark.parametrize(("growing", "missed"), [("driver", "driver"), ("workers", "workers"), ("replica", None)])
def test_memory_that_grows_by_a_fifth_misses_the_bound_of_its_kind_of_process(growing: str, missed: str | None) -> None:
    seconds = [second / 10 for second in range(201)]
    runs = [Run(samples_of(200, {growing: 20.0}), seconds, resume_s=1.0) for _ in range(3)]
    bounds = bounds_of(runs, 200)
    assert [bound.what.split(",")[0] for bound in bounds if not bound.is_met] == (
        [f"memory of the {missed}"] if missed else []
    )
    assert {len(bound.values) for bound in bounds} == {3}


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::MapWorker(Map(RowWorker)).submit", "workers"),
        ("ray::Tracker.take", "tracker"),
        (f"ray::ServeReplica:img2img:{MODEL}.handle_request", "replica"),
        ("ray::SERVE_REPLICA::img2img#router#ek5r7krm:ServeReplica:img2img:router.__init__", "router"),
        ("ray::IDLE", "rest"),
        ("", "rest"),
    ],
)
def test_processes_are_told_apart_by_their_titles(title: str, kind: str) -> None:
    assert kind_of([title, ""]) == kind


def test_no_two_images_are_alike_and_the_same_seed_gives_the_same() -> None:
    first, again, others = (list(images_with_noise(50, 64, seed)) for seed in (0, 0, 1))
    assert len({image.tobytes() for image in [*first, *others]}) == 100
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert {(image.shape, image.dtype) for image in first} == {((64, 64, 3), np.dtype(np.uint8))}


def test_the_measured_app_is_the_configured_one_with_one_model() -> None:
    app = application(defaults={"max_side": 64})
    config = AppConfig.model_validate(app["args"])
    assert list(config.models) == [MODEL]
    assert config.defaults_for(MODEL).max_side == 64
    assert config.models[MODEL].source == str(REPO_ROOT / "data" / "models" / MODEL)
    assert [options["name"] for options in app["deployments"]] == ["router", MODEL]


def test_the_engine_alone_gets_the_requests_of_the_job(tmp_path: Path) -> None:
    app = AppConfig.model_validate(application(defaults={"strength": 0.5})["args"])
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(tmp_path / "a.png")
    request = request_of(tmp_path / "a.png", app)
    assert request.pixels.shape == (64, 48, 3)
    assert request.prompt in app.prompts
    assert (request.strength, request.priority, request.loras) == (0.5, "folder", ())


def test_finish_times_are_sorted_seconds(tmp_path: Path) -> None:
    write_record(tmp_path, finished(3.5), finished(1.25), finished(2))
    times = finish_times(tmp_path, 3)
    assert [round(time - times[0], 3) for time in times] == [0, 0.75, 2.25]
    assert num_results(tmp_path) == 3


def test_a_half_written_line_is_no_result_yet(tmp_path: Path) -> None:
    assert num_results(tmp_path) == 0
    (tmp_path / RESULTS_FILE).write_text('{}\n{"source": "a')
    assert num_results(tmp_path) == 1


def test_the_job_counts_as_ready_once_the_router_and_the_model_take_requests() -> None:
    log = f"webui-state: healthy\n{MODEL}: updating it starts\nrouter: healthy\n"
    assert not is_ready(log)
    assert is_ready(log + f"{MODEL}: healthy\n")


@pytest.mark.parametrize("rows", [[finished(1)], [finished(1), finished(2, "NotAnImage")]])
def test_a_run_that_did_not_make_every_image_is_not_measured(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_record(tmp_path, *rows)
    with pytest.raises(JobFailed, match=f"{len(rows)} results of 2 images"):
        finish_times(tmp_path, 2)


@pytest.mark.parametrize(
    ("kind", "value", "code"), [("at most", 1.5, 0), ("at most", 1.51, 1), ("at least", 1.5, 0), ("at least", 1.49, 1)]
)
def test_a_missed_bound_of_the_median_is_the_exit_code_and_in_the_file(
    tmp_path: Path, kind: Any, value: float, code: int
) -> None:
    values = (0.0, value, 9.0)
    bounds = [
        Bound(what="a", values=(0,), kind="at most", limit=0),
        Bound(what="b", values=values, kind=kind, limit=1.5),
    ]
    sample = {"rounds": 3, "images": 10}
    assert conclude("name", FACTS, bounds, {"raw": [1, 2]}, tmp_path, scratch=False, **sample) == code
    record = FolderRecord.model_validate_json((tmp_path / "folder-name.json").read_text())
    assert [bound.is_met for bound in record.bounds] == [True, code == 0]
    assert record.values == {"raw": [1, 2]}
