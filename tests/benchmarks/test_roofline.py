from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.architectures import Family
from benchmarks.roofline.__main__ import main
from benchmarks.roofline.records import RooflineRecord
from benchmarks.roofline.work import count_work
from tests.support.commands import run


@pytest.mark.slow
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


@pytest.mark.subprocess
def test_the_roofline_of_a_small_job_is_measured_and_written(tmp_path: Path) -> None:
    done = run(main, "--arch", "small", "--size", 64, "--images", 0, "--steps", 10, "--output-dir", tmp_path)
    assert done.exit_code == 0, done.output
    (result,) = tmp_path.glob("roofline-small-*.json")
    record = RooflineRecord.model_validate_json(result.read_text())
    for job in record.rooflines:
        assert (job.denoise_steps, job.rows, job.engine_s) == (5, 2, ())
        assert job.least_s >= job.compute_s > 0
        assert f"{job.least_s:.3g}" in done.output
