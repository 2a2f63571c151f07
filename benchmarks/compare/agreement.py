"""Whether backends give the same images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.backends.spec import OTHER_IMAGES
from benchmarks.compare.records import Measurement

Images = npt.NDArray[np.uint8]  # (images, height, width, 3)
IDENTICAL_DB = 100.0
LEAST_DB = 50.0  # between float32 images of one request: they come out near 85, and a guidance off by one near 40


class ImagesDiffer(Exception):
    """A backend gave other images than the script did, so its speed says nothing."""


def psnr(a: Images, b: Images) -> float:
    """Peak signal-to-noise ratio of two 8-bit images in dB, at most IDENTICAL_DB."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, 10 * float(np.log10(255**2 / error)))


def check_images(measurement: Measurement, images: Images, expected: Images, expected_dtype: str) -> Measurement:
    """The measurement with its images' PSNR.

    Raises ImagesDiffer if one is below LEAST_DB where both are float32 and the backend is to give the script's images.
    """
    values = tuple(psnr(a, b) for a, b in zip(images, expected, strict=True))
    comparable = measurement.dtype == expected_dtype == "float32" and measurement.backend not in OTHER_IMAGES
    if comparable and min(values) < LEAST_DB:
        raise ImagesDiffer(
            f"{measurement.backend}, {measurement.settings}, {measurement.mode}: image {int(np.argmin(values))} "
            f"is {min(values):.1f} dB from the script's; at least {LEAST_DB:g} dB are needed"
        )
    return measurement.model_copy(update={"psnr": values})


def control(images: Images) -> float:
    """The highest PSNR between neighbours of different requests: what a wrong image would score at best."""
    return max((psnr(a, b) for a, b in zip(images, images[1:], strict=False)), default=0.0)
