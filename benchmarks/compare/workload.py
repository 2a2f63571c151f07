"""The requests of a comparison, the same for every backend, and the two ways of sending them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.compare.records import Mode, Options, SettingsKind
from deployments.config import REPO_ROOT, AppConfig, Defaults
from deployments.engine.request import Img2ImgRequest, Pixels

PHOTOS = REPO_ROOT / "data" / "input_images"
PROMPTS: tuple[str, ...] = AppConfig.model_fields["prompts"].default
LEAST_STEPS, TURBO_STEPS = 4, 4  # num_inference_steps of mixed settings, and of turbo settings
Run = Callable[[Img2ImgRequest], Awaitable[Pixels]]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One answered request: when it was due and when it was done, in seconds from the start."""

    due: float
    done: float
    pixels: Pixels

    @property
    def latency(self) -> float:
        return self.done - self.due


def make_requests(options: Options, settings: SettingsKind, mode: Mode, repeat: int = 0) -> list[Img2ImgRequest]:
    """`options.images` requests, no two with the same image or seed: caches of images must not help.

    Another `repeat` gives other images and settings of the same kind.


    - uniform: the app's default prompt and settings, with at most `max_steps` steps
    - mixed: a prompt of the app's list, 4 to `max_steps` steps, strength 0.3 to 1, guidance 0, 5 or 12
    - guided: a prompt, 20 to 30 steps, strength 0.6 to 0.8, guidance 5, 7.5 or 12; the mean is 17 denoise steps
    - single: a prompt and one unguided step
    - turbo: a prompt and TURBO_STEPS unguided steps, as distilled checkpoints are used
    """
    random = Random(f"{options.seed}/{settings}/{mode}/{repeat}")
    photos = [np.array(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.rglob("*.jpg"))]
    return [
        Img2ImgRequest(
            request_id=f"{settings}-{mode}-{repeat}-{seed}",
            pixels=_crop(random.choice(photos), options.size, random),
            seed=seed,
            **_settings(options, settings, random),
        )
        for seed in range(options.images)
    ]


def _settings(options: Options, kind: SettingsKind, random: Random) -> dict[str, Any]:
    if kind == "uniform":
        settings = Defaults().model_dump(exclude={"max_side"})
        return settings | {"num_inference_steps": min(settings["num_inference_steps"], options.max_steps)}
    prompt = random.choice(PROMPTS)
    strength, guidance_scale, steps = 1.0, 0.0, TURBO_STEPS if kind == "turbo" else 1
    if kind == "mixed":
        strength, guidance_scale = round(random.uniform(0.3, 1.0), 2), random.choice((0.0, 5.0, 12.0))
        steps = random.randint(LEAST_STEPS, options.max_steps)
    if kind == "guided":
        strength, guidance_scale = round(random.uniform(0.6, 0.8), 2), random.choice((5.0, 7.5, 12.0))
        steps = random.randint(20, 30)
    return {
        "prompt": prompt,
        "strength": strength,
        "guidance_scale": guidance_scale,
        "num_inference_steps": steps,
    }


def _crop(photo: Pixels, size: int, random: Random) -> Pixels:
    """A random square of at least half the photo's shorter side, as `size` x `size` pixels."""
    height, width = photo.shape[:2]
    side = random.randint(min(height, width) // 2, min(height, width))
    left, top = random.randint(0, width - side), random.randint(0, height - side)
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def poisson_arrivals(options: Options, rate: float) -> tuple[float, ...]:
    """Seconds from the start at which the requests arrive, `rate` per second on average."""
    gaps = np.random.default_rng(options.seed).exponential(1 / rate, options.images)
    return tuple(float(second) for second in np.cumsum(gaps))


async def closed_loop(run: Run, requests: Sequence[Img2ImgRequest], clients: int) -> list[Sample]:
    """Each client sends its next request when its last one is answered. Samples in the order of `requests`."""
    started = time.perf_counter()
    todo = iter(enumerate(requests))
    samples: dict[int, Sample] = {}

    async def client() -> None:
        for i, request in todo:
            due = time.perf_counter() - started
            pixels = await run(request)
            samples[i] = Sample(due, time.perf_counter() - started, pixels)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return [samples[i] for i in range(len(requests))]


async def open_loop(run: Run, requests: Sequence[Img2ImgRequest], arrivals: Sequence[float]) -> list[Sample]:
    """Each request is sent at its time, whether or not earlier ones are answered."""
    started = time.perf_counter()

    async def send(request: Img2ImgRequest, due: float) -> Sample:
        await asyncio.sleep(started + due - time.perf_counter())
        pixels = await run(request)
        return Sample(due, time.perf_counter() - started, pixels)

    return await asyncio.gather(*(send(request, due) for request, due in zip(requests, arrivals, strict=True)))
