from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks import compare, floor, report, runners, suite
from benchmarks.architectures import Family, checkpoint_for
from benchmarks.records import Job, Machine, Measurement, Options, Record, Way
from benchmarks.summary import LEAST_DB, PicturesDiffer, check_pictures, rows, slowdowns
from benchmarks.warm_up import rounds
from benchmarks.ways import EngineWay
from benchmarks.work import count_work
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
def test_all_ways_give_the_same_pictures_of_mixed_requests_and_are_reported(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    options = ["--images", 3, "--clients", 2, "--rounds", 1, "--size", 64, "--max-steps", 6, "--dtype", "float32"]
    ways = ["--ways", "script,service,service_fast", "--mode", "closed", "--settings", "mixed"]
    done = run(compare.main, "--arch", checkpoints("sd15"), "--output-dir", tmp_path, *options, *ways)
    assert done.exit_code == 0, done.output
    (result,) = tmp_path.glob("*.json")
    record = Record.model_validate_json(result.read_text())
    assert [measurement.way for measurement in record.measurements] == ["script", "service", "service_fast"]
    assert all(min(measurement.psnr) >= LEAST_DB for measurement in record.measurements)
    assert record.control_psnr < LEAST_DB
    assert result.with_suffix(".png").exists()
    markdown = run(report.main, result).output
    assert record.options.command in markdown
    assert all(f"| {row.way} | float32 | {row.images_per_s} |" in markdown for row in rows(record, "mixed", "closed"))


def test_way_that_fails_is_told_and_leaves_the_others_results(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    options = ["--images", 1, "--rounds", 1, "--size", 64, "--mode", "closed", "--settings", "single", "--together"]
    ways = ["--ways", "script,script_offload"]  # offloading needs an accelerator
    where = ["--arch", checkpoints("sd15"), "--output-dir", tmp_path, "--device", "cpu"]
    done = run(compare.main, *where, *options, *ways)
    assert done.exit_code == 1
    assert "script_offload failed" in done.output
    (result,) = tmp_path.glob("*.json")
    record = Record.model_validate_json(result.read_text())
    assert [measurement.way for measurement in record.measurements] == ["script"]


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


def recorded(**changes: object) -> Record:
    values = {
        "date": "",
        "commit": "",
        "machine": Machine(cpu="", cores=1, memory_gb=1, gpu=None, versions={}),
        "options": Options(),
        "rates": {},
        "control_psnr": 0,
        "measurements": (measured().model_copy(update={"psnr": (90.0, 80.0)}),),
    }
    return Record(**{**values, **changes})


def test_latency_of_short_requests_leaves_the_long_ones_out() -> None:
    (row,) = rows(recorded(), "mixed", "closed")
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


def test_slowdown_divides_each_latency_by_what_the_same_request_takes_the_script_alone() -> None:
    assert slowdowns([1.0, 3.0], [0.5, 2.0]) == [2.0, 1.5]
    poisson = measured().model_copy(update={"mode": "poisson", "psnr": (90.0, 80.0)})
    record = recorded(measurements=(poisson,), rates={"mixed": 1.0}, solo={"mixed": (0.5, 2.0)})
    (row,) = rows(record, "mixed", "poisson")
    assert row.mean_slowdown is not None
    assert row.p99_slowdown is not None
    assert row.mean_slowdown.median == 1.75
    assert row.p99_slowdown.median == pytest.approx(1.995)


def test_results_from_before_slowdown_was_measured_are_still_shown(tmp_path: Path) -> None:
    old = recorded().model_dump(mode="json")
    del old["solo"]
    (row,) = rows(Record.model_validate(old), "mixed", "closed")
    assert row.mean_slowdown is None
    assert "| - |" in "\n".join(report._table([row]))


@pytest.mark.parametrize(
    ("family", "size", "gigaflops"),
    [
        ("sd15", 512, (803, 1117, 2515, 13)),
        ("sd21", 768, (2149, 2609, 5754, 45)),
        ("sdxl", 1024, (6761, 4879, 10470, 111)),
    ],
)
def test_the_counted_work_is_that_of_the_published_networks(
    family: Family, size: int, gigaflops: tuple[int, ...]
) -> None:
    work = count_work(family, size)
    assert tuple(round(flops / 1e9) for flops in work[:4]) == gigaflops
    assert work.image(3, guided=True) == work.vae_encode + work.vae_decode + 2 * (work.text + 3 * work.unet_row)


def test_the_floor_of_a_small_job_is_measured_and_written(tmp_path: Path) -> None:
    done = run(floor.main, "--arch", "small", "--size", 64, "--images", 0, "--steps", 10, "--output-dir", tmp_path)
    assert done.exit_code == 0, done.output
    (result,) = tmp_path.glob("floor-small-*.json")
    record = floor.FloorRecord.model_validate_json(result.read_text())
    for job in record.floors:
        assert (job.denoise_steps, job.rows, job.ours_s) == (5, 2, None)
        assert job.floor_s >= job.compute_s > 0
        assert f"{job.floor_s:.3g}" in done.output


def test_a_way_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runners.PACKAGES, "sdcpp", ("no_such_module", "stable-diffusion-cpp-python"))
    result = run(compare.main, "--ways", "script,sdcpp")
    assert result.exit_code == 2
    assert "sdcpp needs stable-diffusion-cpp-python: pip install stable-diffusion-cpp-python" in " ".join(
        result.output.replace("│", " ").split()
    )


def test_pictures_of_a_way_with_another_sampler_are_not_held_against_it() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    other = measured().model_copy(update={"way": "openvino"})
    assert check_pictures(other, expected + 9, expected, "float32").psnr[0] < LEAST_DB


@pytest.mark.parametrize("way", ["engine", "service", "service_fast"])
def test_the_warm_up_leads_ours_through_every_number_of_guided_and_of_unguided_requests(way: Way) -> None:
    job = Job(way=way, checkpoint="", cache_dir="", options=Options(size=64, clients=3), cells=())
    for guidance_scale, together in zip((0.0, 5.0), rounds(job), strict=True):
        remaining = [request.num_denoise_steps for request in together]
        assert all(request.guidance_scale == guidance_scale for request in together)
        assert [sum(steps > done for steps in remaining) for done in range(max(remaining))] == [3, 2, 1]


def test_the_engine_says_how_long_its_steps_took_by_their_rows(checkpoints: Callable[[str], Path]) -> None:
    options = Options(size=64, images=1, clients=1, dtype="float32")
    job = Job(way="engine", checkpoint=str(checkpoints("sd15")), cache_dir="", options=options, cells=())

    async def times() -> dict[int, float]:
        await (engine := EngineWay(job)).open()
        for request in make_requests(options, "guided", "closed"):
            await engine.run(request)
        await engine.close()
        return engine.step_times(options.size)

    ((rows_of_a_step, seconds),) = asyncio.run(times()).items()
    assert rows_of_a_step == 2
    assert 0 < seconds < 10


def test_the_suite_measures_every_part_beside_the_script_and_the_best_diffusers() -> None:
    parts = suite.parts_of(256, 4, 10, 1, ("mixed",), ("sdcpp",))
    assert [part.arch for part in parts] == ["sd15", "tiny", "small"]
    assert all({"script", "diffusers_best"} <= set(part.ways) for part in parts)
    assert "sdcpp" in parts[0].ways
