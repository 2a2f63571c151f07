from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.architectures import checkpoint_for
from benchmarks.backends import registry
from benchmarks.backends.engine_backend import EngineBackend
from benchmarks.backends.spec import Backend
from benchmarks.compare import suite
from benchmarks.compare.__main__ import main
from benchmarks.compare.agreement import LEAST_DB, ImagesDiffer, check_images
from benchmarks.compare.records import CHANGES, Job, Options, Record
from benchmarks.compare.report import table_of
from benchmarks.compare.summary import rows, slowdowns
from benchmarks.compare.warm_up import rounds
from benchmarks.compare.workload import make_requests, poisson_arrivals
from tests.support.commands import run, text_of
from tests.support.records import measured, recorded


@pytest.mark.service
def test_service_gives_the_scripts_images_of_mixed_requests_and_both_are_reported(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    options = ["--images", 3, "--clients", 2, "--rounds", 1, "--size", 64, "--max-steps", 6, "--dtype", "float32"]
    backends = ["--backends", "script,service_fast", "--mode", "closed", "--settings", "mixed"]
    done = run(main, "--arch", checkpoints("sd15"), "--output-dir", tmp_path, *options, *backends)
    assert done.exit_code == 0, done.output
    (result,) = tmp_path.glob("*.json")
    record = Record.model_validate_json(result.read_text())
    assert [measurement.backend for measurement in record.measurements] == ["script", "service_fast"]
    assert all(min(measurement.psnr) >= LEAST_DB for measurement in record.measurements)
    assert record.control_psnr < LEAST_DB
    assert all(str(row.images_per_s) in done.output for row in rows(record, "mixed", "closed"))


@pytest.mark.subprocess
def test_backend_that_fails_is_reported_and_leaves_the_others_results(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    options = ["--images", 1, "--rounds", 1, "--size", 64, "--mode", "closed", "--settings", "single", "--together"]
    checkpoint = shutil.copytree(checkpoints("sd15"), tmp_path / "checkpoint")
    weights = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    where = ["--arch", checkpoint, "--output-dir", tmp_path / "results", "--device", "cpu"]
    done = run(main, *where, *options, "--ways", "script,engine")
    assert done.exit_code == 1
    assert "engine failed" in done.output
    assert "unet has its weights only as a pickle" in done.output
    (result,) = (tmp_path / "results").glob("*.json")
    record = Record.model_validate_json(result.read_text())
    assert [measurement.backend for measurement in record.measurements] == ["script"]


def test_other_images_than_the_scripts_fail_the_comparison() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    other = expected.copy()
    other[1] += 2  # 42 dB
    with pytest.raises(ImagesDiffer, match=r"engine, mixed, closed: image 1 is 42\.1 dB from the script's"):
        check_images(measured(), other, expected, "float32")


def test_images_of_another_dtype_are_compared_but_not_refused() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    checked = check_images(measured("bfloat16"), expected + 2, expected, "float32")
    assert checked.psnr == pytest.approx((42.1, 42.1), abs=0.05)


def test_no_two_requests_share_an_image_and_the_same_options_give_the_same_requests() -> None:
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


def test_of_few_latencies_the_maximum_is_given_and_called_so() -> None:
    (row,) = rows(recorded(), "mixed", "closed")
    assert (row.tail.median, row.median.median, row.images_per_s.median, row.psnr) == (3.0, 2.0, 0.5, 80.0)
    assert "maximum s" in [column.header for column in table_of(recorded(), "mixed", "closed").columns]


def test_of_a_hundred_latencies_the_99th_percentile_is_given() -> None:
    many = measured(latencies=tuple(range(1, 101)))
    record = recorded(measurements=(many,))
    (row,) = rows(record, "mixed", "closed")
    assert row.tail.median == pytest.approx(99.01)
    assert "p99 s" in [column.header for column in table_of(record, "mixed", "closed").columns]


def test_median_is_given_with_the_minimum_and_the_maximum_over_rounds() -> None:
    times = (4.0, 5.0, 2.0)
    record = recorded(measurements=[measured(seconds=s) for s in times])
    (row,) = rows(record, "mixed", "closed")
    assert str(row.images_per_s) == "0.5 (0.4..1)"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--backends", "engine"], "backends must include script"),
        (["--backends", "script,warp"], "diffusers_best"),
        (["--size", "100"], "multiple of 8"),
        (["--arch", "sd3"], "arch must be tiny, sd15, sd21, sdxl"),
    ],
)
def test_a_bad_option_is_bad_usage(arguments: list[str], complaint: str) -> None:
    result = run(main, "--scratch", *arguments)
    assert result.exit_code == 2
    assert complaint in text_of(result)


def test_an_existing_diffusers_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    tiny = checkpoint_for("tiny", tmp_path)
    assert checkpoint_for(str(tiny), tmp_path) == tiny
    assert not list(tmp_path.iterdir())


def test_slowdown_divides_each_latency_by_what_the_same_request_takes_the_script_alone() -> None:
    assert slowdowns([1.0, 3.0], [0.5, 2.0]) == [2.0, 1.5]
    poisson = measured(mode="poisson")
    record = recorded(measurements=(poisson,), rates={"mixed": 1.0}, solo={"mixed": (0.5, 2.0)})
    (row,) = rows(record, "mixed", "poisson")
    assert row.mean_slowdown is not None
    assert row.tail_slowdown is not None
    assert (row.mean_slowdown.median, row.tail_slowdown.median) == (1.75, 2.0)


def test_a_backend_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.PACKAGES, "sdcpp", ("no_such_module", "stable-diffusion-cpp-python"))
    result = run(main, "--scratch", "--backends", "script,sdcpp")
    assert result.exit_code == 2
    assert "sdcpp needs stable-diffusion-cpp-python: pip install stable-diffusion-cpp-python" in text_of(result)


def test_images_of_a_backend_with_another_sampler_are_not_held_against_it() -> None:
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    other = measured(backend="openvino")
    assert check_images(other, expected + 9, expected, "float32").psnr[0] < LEAST_DB


@pytest.mark.parametrize("backend", ["engine", "service", "service_fast"])
def test_the_warm_up_leads_ours_through_every_number_of_guided_and_of_unguided_requests(backend: Backend) -> None:
    options = Options(size=64, clients=3)
    job = Job(spec=options.spec(backend, Path(), Path()), options=options, cells=())
    for guidance_scale, together in zip((0.0, 5.0), rounds(job), strict=True):
        remaining = [request.num_denoise_steps for request in together]
        assert all(request.guidance_scale == guidance_scale for request in together)
        assert [sum(steps > done for steps in remaining) for done in range(max(remaining))] == [3, 2, 1]


@pytest.mark.slow
def test_the_engine_says_how_long_its_steps_took_by_their_rows(checkpoints: Callable[[str], Path]) -> None:
    options = Options(size=64, images=1, clients=1, dtype="float32")
    spec = options.spec("engine", checkpoints("sd15"), Path())

    async def times() -> dict[int, float]:
        await (engine := EngineBackend(spec)).open()
        for request in make_requests(options, "guided", "closed"):
            await engine.run(request)
        await engine.close()
        return engine.step_times()

    ((rows_of_a_step, seconds),) = asyncio.run(times()).items()
    assert rows_of_a_step == 2
    assert 0 < seconds < 10


def test_the_suite_measures_every_part_beside_the_script_and_the_best_diffusers() -> None:
    parts = suite.parts_of(256, 4, 10, 1, ("sdcpp",))
    assert [part.arch for part in parts] == ["sd15", "tiny", "small"]
    assert all({"script", "diffusers_best"} <= set(part.backends) for part in parts)
    assert "sdcpp" in parts[0].backends


def test_a_workload_keeps_the_name_of_its_record() -> None:
    options = Options(arch="sd15", size=512, settings=("mixed",), mode=("closed",))
    names = {options.name, options.model_copy(update={"rounds": 5, "images": 20}).name}
    assert names == {"compare-sd15-512px-mixed-closed-cpu"}


def test_every_option_that_decides_the_result_is_in_the_name_of_the_record() -> None:
    other = {"dtype": "float32", "reproducible": True, "max_rows": 8, "clients": 16, "batch_size": 2, "load": 0.5}
    options = Options(arch="sd15", size=512, settings=("mixed",), mode=("closed",), max_steps=4, seed=1, **other)
    changes = "float32-reproducible-8-rows-16-clients-batches-of-2-load-0.5-seed-1-4-steps"
    assert options.name == f"compare-sd15-512px-{changes}-mixed-closed-cpu"
    always, sample = {"arch", "size", "device", "settings", "mode", "max_steps"}, {"images", "rounds", "together"}
    assert set(Options.model_fields) == {*CHANGES, *always, *sample, "backends"}
