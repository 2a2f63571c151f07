"""NNPACK's convolutions change no image, and run where they are ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deployments.engine import compiling, nnpack, openvino_form
from deployments.engine.compiling import compile_first, compiled_forms
from deployments.engine.engine import Engine
from deployments.engine.loading import load_checkpoint
from deployments.engine.request import Img2ImgRequest
from deployments.engine.runner import Runner
from tests.reference import Reference, picture, run

Checkpoints = Callable[[str], Path]
pytestmark = pytest.mark.skipif(not nnpack.is_available(), reason="NNPACK was measured, and is used, on x86-64 only")
REQUESTS = [
    Img2ImgRequest("a", picture(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", picture(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", picture(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),
]


class Picture(nn.Module):
    """As a VAE is to the form: a network that encodes and decodes, here by one convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.convolution(latents),)


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (31, 33), (32, 32), (57, 129)])
def test_convolution_is_torchs_own_for_every_row_by_itself(height: int, width: int) -> None:
    torch.manual_seed(0)
    convolution, rows = nn.Conv2d(24, 40, 3, padding=1), torch.randn(3, 24, height, width)
    decode = nnpack.nnpack_vae(Picture(convolution)).decode
    made, exact = decode(rows), convolution.double()(rows.double())
    assert (made - exact).abs().max() < 1e-5 * exact.abs().max()
    if height * width >= nnpack.LEAST_PIXELS:
        assert all(torch.equal(decode(row[None])[0], made[i]) for i, row in enumerate(rows))


@torch.inference_mode()
@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 8}])
def test_other_convolutions_stay_as_they_are(options: dict[str, int]) -> None:
    convolution, rows = nn.Conv2d(24, 40, 3, **{"padding": 1, **options}), torch.randn(1, 24, 64, 64)
    assert torch.equal(nnpack.nnpack_vae(Picture(convolution)).decode(rows), convolution(rows))


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "lcm"])
def test_images_are_diffusers_own(kind: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnpack, "LEAST_PIXELS", 0)
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)  # as where OpenVINO is not installed
    runner = Runner(load_checkpoint(str(checkpoints(kind)), device="cpu", dtype="float32"))
    compile_first(runner, 8)
    images, reference = run(Engine(runner, max_rows=8), REQUESTS, join_every=2), Reference(checkpoints(kind))
    assert runner.form == "nnpack"
    for request in REQUESTS:
        assert np.abs(images[request.request_id].astype(int) - reference(request)).max() <= 1


@pytest.mark.parametrize(
    ("capability", "found"), [("AVX2", False), ("AVX512", True), ("AVX512_VNNI", True), ("DEFAULT", False)]
)
def test_every_kind_of_avx512_is_known(capability: str, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert openvino_form._has_avx512() == found


@pytest.mark.parametrize(
    ("small", "capability", "stays"), [(True, "AVX2", False), (False, "AVX2", True), (False, "AVX512", False)]
)
def test_openvino_leaves_large_vaes_where_there_is_no_avx512(
    small: bool, capability: str, stays: bool, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_form, "SMALL_BYTES", 2**40 if small else 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with_nnpack, with_openvino = compiled_forms(
        load_checkpoint(str(checkpoints("sd15")), device="cpu", dtype="float32"), 8
    )
    assert (with_nnpack.form, with_openvino.form) == ("nnpack", "openvino")
    assert (with_openvino.vae is with_nnpack.vae) == stays
    assert with_openvino.unet is not with_nnpack.unet


def test_vae_in_bfloat16_stays_torchs_own(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)
    assert not list(compiled_forms(load_checkpoint(str(checkpoints("sd15")), device="cpu", dtype="bfloat16"), 8))
