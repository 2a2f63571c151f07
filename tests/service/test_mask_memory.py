"""The memory of a large image with a mask, and that doing it in strips changes no byte."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deployments.images import strips
from deployments.images.masks import feather, paint_over
from deployments.images.strips import lightness, mix, to_array

SIDE = 3000
MOST_BYTES = 18  # a pixel: the source's 3, its mask's 1, and one conversion of Pillow's at a time
PROGRAM = f"""
import sys
import numpy as np
from deployments.config import Limits
from deployments.images import flow
from deployments.images.masks import MaskFile
from tests.support.images import file_of

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

mask = np.zeros(({SIDE}, {SIDE}), np.uint8)
mask[:, : {SIDE} // 2] = 255
files = file_of(np.full(({SIDE}, {SIDE}, 3), 90, np.uint8), "png"), file_of(mask, "png")
del mask
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = peak()
prepared = flow.prepare(flow.decode(files[0], Limits()), Limits(), 64, MaskFile(files[1]))
assert prepared.restore(prepared.pixels).shape == ({SIDE}, {SIDE}, 3)
print((peak() - before) / {SIDE} ** 2)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_image_with_a_mask_takes_a_bounded_number_of_bytes_a_pixel() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert float(run.stdout) < MOST_BYTES


def test_mix_is_the_exact_mean_rounded_to_the_nearest() -> None:
    values = np.arange(256, dtype=np.uint8)
    source, result = np.meshgrid(values, values)
    for share in range(256):
        weight = np.float32(share) / 255
        expected = np.rint(source * (1 - weight) + result * weight)
        assert np.array_equal(mix(source, result, np.full_like(source, share)), expected)


def test_strips_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    source, result = rng.integers(0, 256, (2, 23, 31, 3), dtype=np.uint8)
    alpha, mask = rng.integers(0, 256, (2, 23, 31), dtype=np.uint8)

    def everything() -> list[np.ndarray]:
        share, opacity = paint_over(alpha, feather(mask, 2))
        image = Image.fromarray(source)
        grey, flat = to_array(image.convert("L")), to_array(image.convert("RGBA"))
        return [
            mix(source, result, mask),
            lightness(source, alpha),
            lightness(source, None),
            share,
            opacity,
            grey,
            flat,
        ]

    whole = everything()
    assert np.array_equal(whole[-2], np.array(Image.fromarray(source).convert("L")))
    assert np.array_equal(whole[-1], np.array(Image.fromarray(source).convert("RGBA")))
    for pixels in (1, 40, 31 * 22):
        monkeypatch.setattr(strips, "STRIP_PIXELS", pixels)
        assert all(np.array_equal(one, other) for one, other in zip(everything(), whole, strict=True))


def test_paint_leaves_an_opaque_image_as_it_is() -> None:
    share = np.arange(256, dtype=np.uint8)[None]
    weight, opacity = paint_over(np.full_like(share, 255), share)
    assert np.array_equal(weight, share)
    assert (opacity == 255).all()
