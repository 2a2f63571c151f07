"""Masks of tables and of the one-image command: white changes, whatever else the file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch.record.results import Result
from deployments.engine.request import Pixels
from deployments.images.masks import MASK_BLUR
from tests.support.images import decode, file_of, gradient
from tests.support.ledgers import a_job
from tests.support.workers import image_worker

SIZE = 48, 32
HALF = 24


async def made(folder: Path, mask: Image.Image) -> tuple[Result, Pixels | None]:
    """The result of a job whose model inverts colours, and the image that it wrote."""
    worker = image_worker(folder, [], lambda pixels: 255 - pixels)
    worker.inputs.write("mask.png", file_of(mask, "png"))
    job = a_job(mask="mask.png")
    result, _ = await worker.run(job)
    output = folder / "out" / job.output
    return result, decode(output.read_bytes()).pixels if output.exists() else None


def white_half(mode: str, background: object) -> Image.Image:
    mask = Image.new(mode, SIZE, background)  # type: ignore[arg-type]
    mask.paste("white", (0, 0, HALF, SIZE[1]))
    return mask


@pytest.mark.parametrize(
    "mask",
    [white_half("L", 0), white_half("RGBA", (0, 0, 0, 0)), white_half("RGBA", (255, 255, 255, 0))],
    ids=["black", "transparent", "transparent white"],
)
async def test_white_changes_and_what_is_transparent_stays(tmp_path: Path, mask: Image.Image):
    result, pixels = await made(tmp_path, mask)
    assert (result.error_type, result.num_denoise_steps) == (None, 6)
    assert pixels is not None
    reach = HALF - int(3 * MASK_BLUR)  # of the feather, into what may change
    np.testing.assert_array_equal(pixels[:, HALF:], gradient()[:, HALF:])
    np.testing.assert_array_equal(pixels[:, :reach], 255 - gradient()[:, :reach])


@pytest.mark.parametrize("brightest", [0, 1, 127])
async def test_mask_with_nothing_to_change_fails_before_any_step(tmp_path: Path, brightest: int):
    result, pixels = await made(tmp_path, white_half("L", 0).point(lambda value: value * brightest // 255))
    assert (result.error_type, pixels, result.attempts) == ("InvalidRequest", None, 0)
    assert result.error is not None
    assert result.error.startswith(f"mask: nothing in it is to change: its highest value is {brightest} of 255")
