"""The backends of a GPU, on a real one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.compare.agreement import psnr
from deployments.engine.accel.cuda.backend import cuda_backends, relative_error
from deployments.engine.accel.cuda.capture import CudaGraphCapture
from deployments.engine.accel.cuda.device_lock import DEVICE_LOCK
from deployments.engine.accel.cuda.graphs import CaptureLimits, Counters, GraphedModule
from deployments.engine.engine import Engine
from deployments.engine.models.families import load_family
from deployments.engine.request import Img2ImgRequest, Pixels
from deployments.engine.runner import Runner
from tests.engine.test_parity import random_request
from tests.support.checkpoints import with_overflowing_vae
from tests.support.reference import Reference, make_engine, run, smooth_image

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
REQUESTS = [
    Img2ImgRequest("a", smooth_image(1, 64, 64), "a cat", "blurry", 0.7, 5.0, 10, 3, "dpmpp_2m"),
    Img2ImgRequest("b", smooth_image(2, 64, 64), "castles", None, 0.5, 0.0, 8, 4, "euler_ancestral"),
    Img2ImgRequest("c", smooth_image(3, 88, 72), "a cat", None, 0.9, 9.0, 6, 5, "ddim"),
    Img2ImgRequest("d", smooth_image(4, 64, 64), "a dog", None, 0.8, 6.0, 9, 6, "euler"),
    Img2ImgRequest("e", smooth_image(5, 64, 64), "a dog", None, 0.6, 4.0, 9, 7, "dpmpp_2m"),
]


@torch.inference_mode()
def test_replayed_graphs_give_what_was_captured() -> None:
    requested: list[Callable[[], object]] = []
    capture, limits = CudaGraphCapture(torch.device("cuda")), CaptureLimits((1, 2, 4), 1, 1)
    graphed = GraphedModule(torch.sin, torch.sin, capture, limits, Counters(), requested.append)
    graphed.capture([torch.zeros(0, 3, device="cuda")])
    for rows in range(1, 10):
        x = torch.randn(rows, 3, device="cuda")
        assert torch.equal(graphed(x), torch.sin(x))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_every_backend_gives_the_same_images(kind: str, checkpoints: Callable[[str], Path]) -> None:
    family = load_family(str(checkpoints(kind)), device="cuda", dtype="float32")
    engine = Engine(Runner(family, device_lock=DEVICE_LOCK.step), max_rows=8)
    expected = run(engine, REQUESTS)
    backends = []
    for backend in cuda_backends(family, 8):
        family.slot.swap_backend(backend)
        images = run(engine, REQUESTS, join_every=2)
        backends.append(backend.name)
        far = max(np.abs(images[name].astype(int) - expected[name]).max() for name in expected)
        assert far <= 1, backend.name
    assert backends == ["graphs", "inductor+graphs"]
    counters = engine.stats()
    assert counters["replays"] > 0
    assert (counters["captures_in_step"], counters["compilations_in_step"], counters["failures"]) == (0, 0, 0)


@torch.inference_mode()
def test_cudnn_attention_is_as_exact_as_flash_attention() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 8, 1024, 40, device="cuda", dtype=torch.float16) for _ in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    errors = []
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(kernel):
            output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        errors.append(relative_error(output, exact))
    assert errors[1] <= 2 * errors[0] + 1e-6


def images_and_references(
    checkpoints: Callable[[str], Path], count: int, dtype: str
) -> Iterator[tuple[str, Pixels, Pixels]]:
    """The parity suite's random requests through the engine and through diffusers, both on CUDA in `dtype`."""
    by_family = defaultdict(list)
    for number in range(count):
        family, request = random_request(number)
        by_family[family].append(request)
    for family, requests in by_family.items():
        images = run(make_engine(checkpoints(family), device="cuda", dtype=dtype), requests, join_every=2)
        reference = Reference(checkpoints(family), device="cuda", dtype=getattr(torch, dtype))
        for request in requests:
            yield f"{family} {request.request_id}", images[request.request_id], reference(request)


def test_float32_image_is_diffusers_own(checkpoints: Callable[[str], Path], pytestconfig: pytest.Config) -> None:
    count = pytestconfig.getoption("--parity-count")
    differences = []
    for name, image, expected in images_and_references(checkpoints, count, "float32"):
        differences.append(np.abs(image.astype(int) - expected.astype(int)).ravel())
        assert differences[-1].max() <= 3, name
    within_one = float(np.mean(np.concatenate(differences) <= 1))
    print(f"{len(differences)} settings in float32: {within_one:.6%} of values within 1/255")
    assert within_one >= 0.9999


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_as_near_to_diffusers_as_its_rounding(
    dtype: str, checkpoints: Callable[[str], Path], pytestconfig: pytest.Config
) -> None:
    count = pytestconfig.getoption("--parity-count")
    found = {name: psnr(image, expected) for name, image, expected in images_and_references(checkpoints, count, dtype)}
    print(f"{dtype}: {min(found.values()):.1f} dB at least, of {len(found)} settings")
    assert min(found.values()) >= (40 if dtype == "float16" else 35)


def test_sdxl_whose_vae_overflows_in_float16_is_as_near(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_overflowing_vae(checkpoints("sdxl"), tmp_path / "sdxl")
    reference = Reference(folder, device="cuda", dtype=torch.float16)
    images = run(make_engine(folder, device="cuda", dtype="float16"), REQUESTS, join_every=2)
    found = {request.request_id: psnr(images[request.request_id], reference(request)) for request in REQUESTS}
    print(f"SDXL with a VAE of large values, float16: {min(found.values()):.1f} dB at least")
    assert min(found.values()) >= 40


def test_reproducible_images_do_not_depend_on_batch_neighbours(checkpoints: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoints("sd15"), reproducible=True, device="cuda", dtype="float16")
    requests = [request for request in REQUESTS if request.pixels.shape == (64, 64, 3)]
    alone = {request.request_id: run(engine, [request])[request.request_id] for request in requests}
    together = run(engine, REQUESTS, join_every=2)
    assert [together[name].tobytes() == image.tobytes() for name, image in alone.items()] == [True, True]
