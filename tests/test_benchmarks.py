from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks import compare, report
from benchmarks.architectures import checkpoint_for
from benchmarks.records import Machine, Measurement, Options, Record
from benchmarks.summary import LEAST_DB, PicturesDiffer, check_pictures, rows
from benchmarks.workload import make_requests, poisson_arrivals


def run(main: Callable[..., None], *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def measured(dtype: str = "float32") -> Measurement:
    return Measurement(
        way="engine",
        settings="mixed",
        mode="closed",
        dtype=dtype,
        seconds=4.0,
        latencies=(1.0, 3.0),
        denoise_steps=(8, 9),
        model_bytes=1,
        all_bytes=1,
        gpu_bytes=None,
        load_average=0.0,
    )


@pytest.mark.service
def test_all_ways_give_the_same_pictures_of_mixed_requests_and_are_reported(tmp_path: Path) -> None:
    options = ["--images", 4, "--rounds", 1, "--size", 64, "--max-steps", 8, "--dtype", "float32"]
    ways = ["--ways", "script,service", "--mode", "closed", "--settings", "mixed"]
    done = run(compare.main, "--arch", "tiny", "--output-dir", tmp_path, *options, *ways)
    assert done.exit_code == 0, done.output
    (result,) = tmp_path.glob("*.json")
    record = Record.model_validate_json(result.read_text())
    assert [measurement.way for measurement in record.measurements] == ["script", "service"]
    assert all(min(measurement.psnr) >= LEAST_DB for measurement in record.measurements)
    assert record.control_psnr < LEAST_DB
    assert result.with_suffix(".png").exists()
    markdown = run(report.main, result).output
    assert record.options.command in markdown
    assert all(f"| {row.way} | float32 | {row.images_per_s} |" in markdown for row in rows(record, "mixed", "closed"))


def test_other_pictures_than_the_scripts_fail_the_comparison() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    other = expected.copy()
    other[1] += 2  # 42 dB
    with pytest.raises(PicturesDiffer, match=r"engine, mixed, closed: picture 1 is 42\.1 dB from the script's"):
        check_pictures(measured(), other, expected, "float32")


def test_pictures_of_another_number_format_are_compared_but_not_refused() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    checked = check_pictures(measured("bfloat16"), expected + 2, expected, "float32")
    assert checked.psnr == pytest.approx((42.1, 42.1), abs=0.05)


def test_no_two_requests_share_a_picture_and_the_same_options_give_the_same_requests() -> None:
    options = Options(images=40, size=64)
    requests, again = (make_requests(options, "mixed", "poisson") for _ in range(2))
    assert len({request.pixels.tobytes() for request in requests}) == 40
    for one, other in zip(requests, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.prompt, one.strength, one.num_inference_steps) == (
            other.prompt,
            other.strength,
            other.num_inference_steps,
        )
    assert {request.guidance_scale for request in requests} == {0.0, 5.0, 12.0}
    assert all(request.num_denoise_steps >= 1 for request in requests)


def test_poisson_arrivals_keep_to_the_rate() -> None:
    arrivals = poisson_arrivals(Options(images=2000), rate=4.0)
    assert list(arrivals) == sorted(arrivals)
    assert 2000 / arrivals[-1] == pytest.approx(4.0, rel=0.1)
    assert np.std(np.diff(arrivals)) == pytest.approx(0.25, rel=0.1)  # exponential: as wide as it is long


def test_latency_of_short_requests_leaves_the_long_ones_out() -> None:
    record = Record(
        date="",
        commit="",
        machine=Machine(cpu="", cores=1, memory_gb=1, gpu=None, versions={}),
        options=Options(),
        rates={},
        control_psnr=0,
        measurements=(measured().model_copy(update={"psnr": (90.0, 80.0)}),),
    )
    (row,) = rows(record, "mixed", "closed")
    assert row.short_p99 is not None
    assert (row.short_p99.median, row.p50.median, row.images_per_s.median, row.psnr) == (1.0, 2.0, 0.5, 80.0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ways", "engine"], "ways must include script"),
        (["--ways", "script,warp"], "script_offload"),
        (["--size", "100"], "multiple of 8"),
        (["--arch", "sd3"], "arch must be tiny, sd15, sd21, sdxl"),
    ],
)
def test_a_bad_option_is_bad_usage(arguments: list[str], complaint: str) -> None:
    result = run(compare.main, *arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_an_existing_diffusers_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    tiny = checkpoint_for("tiny", tmp_path)
    assert checkpoint_for(str(tiny), tmp_path) == tiny
    assert not list(tmp_path.iterdir())
