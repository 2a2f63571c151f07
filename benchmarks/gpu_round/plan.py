"""The items of a round on a GPU, and which of them the time allows. Imports nothing that touches a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

REPEATS = 3  # of every figure
LEAST_IMAGES = 10  # in each repetition of a comparison
OVERRUN = 2.0  # an item is stopped after this many times its estimate


class Item(NamedTuple):
    """A question, the function that answers it (`module:function`) and its estimated seconds on one H200."""

    name: str
    question: str
    function: str
    estimate_s: float
    package: str = ""  # it needs, beside torch
    cuda_only: bool = False


# Cheapest first; but sd15-512 comes before the items that find its kernels compiled.
ITEMS = [
    Item("scaled-fp16", "VAE encoder: scaled fp16 beside float32 and bfloat16", "layers:scaled_fp16", 25),
    Item("layout", "UNet and VAE run eagerly: NCHW or NHWC", "layers:layout", 40),
    Item("norms", "group norm + SiLU: eager or inductor, NCHW or NHWC", "layers:norms", 60),
    Item("cuda-tests", "tests/engine/accel/test_cuda.py", "cuda_tests:run", 100, cuda_only=True),
    Item("sd15-512", "SD1.5 512 px, guided and single step, beside diffusers", "comparisons:sd15", 210),
    Item("two-models", "two engines on one card under load, and one alone", "comparisons:two_models", 90),
    Item("service", "SD1.5 512 px over HTTP behind HAProxy", "comparisons:service", 100, package="ray"),
    Item("sdxl-turbo-512", "SDXL 512 px, 4 unguided steps, beside diffusers", "comparisons:sdxl_turbo", 200),
    Item("sdxl-1024", "SDXL 1024 px, guided, beside diffusers", "comparisons:sdxl", 360),
]


def chosen(names: str) -> list[Item]:
    """The items of a comma-separated list, in the order of ITEMS; all for "all". Raises ValueError naming the items."""
    wanted = [item.name for item in ITEMS] if names == "all" else names.split(",")
    unknown = set(wanted) - {item.name for item in ITEMS}
    if unknown:
        raise ValueError(f"no item {', '.join(sorted(unknown))}; items: {', '.join(item.name for item in ITEMS)}")
    return [item for item in ITEMS if item.name in wanted]


def reason_to_skip(item: Item, device: str, left_s: float) -> str:
    """Why the item cannot run with `left_s` seconds left; "" if it can."""
    if item.cuda_only and device != "cuda":
        return "needs a CUDA device"
    if item.package and find_spec(item.package) is None:
        return f"needs {item.package}, which is not installed"
    if left_s < item.estimate_s:
        return f"needs about {item.estimate_s:.0f} s, and {max(left_s, 0):.0f} s are left"
    return ""


def limit_s(item: Item, device: str, left_s: float) -> float:
    """The seconds after which a running item is stopped; the estimates say nothing of a CPU."""
    return left_s if device == "cpu" else min(left_s, OVERRUN * item.estimate_s)
