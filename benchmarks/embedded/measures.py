"""The measurements of `evaluate`: each function makes images and returns findings with their bounds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.backends.pipelines import StockPipeline
from benchmarks.compare.agreement import psnr
from benchmarks.embedded.painter import Painter, fit_photo
from deployments.config import Strict
from deployments.engine.request import Img2ImgRequest, Pixels, Sampler
from training.classifier import StyleClassifier
from training.prompts import SYNONYMS, prompt_for
from training.styles import STYLES

PAINTED = tuple(style for style in STYLES if style != "photo")
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STYLES_A_PHOTO = 2  # that the strengths are tried on: each photo has its own two
PARITY_PHOTOS = 3
FREE_WORDS = ("", "castles", "a cat in the corner", "at dusk", "highly detailed, 45mm", "in bold colours", "ünïcode 🏰")
FLAT_STD = 4.0  # of 8-bit luma: below it there is nothing to see
DARK = 24.0  # the luma that one pixel in a hundred of a black image is below
LEAST_STEERING = 0.005  # of confidence
SAMPLERS = tuple(sampler for sampler in get_args(Sampler) if sampler != "lcm")  # that is for distilled checkpoints
USUAL_GUIDANCE = (1.0, 3.0)  # what the checkpoints are made for
HIGH_GUIDANCE = (3.0, 12.0)  # where a push away from the photo, or from a style, can end in a plain colour

Prompts = dict[str, tuple[str, ...]]  # style -> what names it
Grid = dict[str, list[Pixels]]  # style -> its image of each photo
Confusion = dict[str, dict[str, int]]  # prompted style -> named style -> images

PROMPTS: Prompts = {style: (prompt_for(style),) for style in STYLES}
PAINTED_PROMPTS: Prompts = {style: PROMPTS[style] for style in PAINTED}
SYNONYM_PROMPTS: Prompts = {style: SYNONYMS[style] for style in PAINTED}


class Finding(Strict):
    """One measured number and what it has to be: at least `least`, at most `most`."""

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it keeps its bounds, which NaN never does."""
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        words = [f"at least {self.least:g}"] if self.least is not None else []
        words += [f"at most {self.most:g}"] if self.most is not None else []
        return ", ".join(words) or "for information"


def autoencoder(painter: Painter, photos: Sequence[Pixels]) -> list[Finding]:
    """How well photos come through the autoencoder alone, in dB."""
    values = [psnr(photo, back) for photo, back in zip(photos, painter.reconstruct(photos), strict=True)]
    return [
        Finding(name="autoencoder PSNR, mean", measured=float(np.mean(values)), least=28),
        Finding(name="autoencoder PSNR, worst photo", measured=min(values)),
    ]


def paint_grid(
    painter: Painter, photos: Sequence[Pixels], prompts: Prompts, *, negated: bool = False, **settings: Any
) -> Grid:
    """Every photo in every style of `prompts`; photo i has the seed i and takes prompt i, in turns.

    With `negated`, the style's own name is the negative prompt. `settings` are the requests' fields.
    """
    requests = []
    for style, wordings in prompts.items():
        negative = {"negative_prompt": prompt_for(style)} if negated else {}
        for i, photo in enumerate(photos):
            prompt = wordings[i % len(wordings)]
            requests.append(painter.request(photo, prompt, seed=i, **negative, **settings))
    images = iter(painter.paint(requests))
    return {style: [next(images) for _ in photos] for style in prompts}


def confusion(classifier: StyleClassifier, grid: Grid) -> Confusion:
    """What the classifier names the images of each style."""
    return {style: dict(Counter(classifier.names(images)).most_common()) for style, images in grid.items()}


def recognition(at_defaults: Confusion, by_synonym: Confusion) -> list[Finding]:
    """How often the classifier names the style that the prompt named."""
    return [
        Finding(name="style recognised", measured=_share(at_defaults, PAINTED), least=0.9),
        Finding(name="style recognised, worst style", measured=min(_share(at_defaults, [s]) for s in PAINTED)),
        Finding(name="style recognised, synonyms", measured=_share(by_synonym, PAINTED), least=0.8),
        Finding(name="photo recognised", measured=_share(at_defaults, ["photo"])),
    ]


def structure(painter: Painter, photos: Sequence[Pixels]) -> tuple[list[Finding], dict[float, float]]:
    """How much of the source's edges is left at each strength; also the mean correlation by strength."""
    trials = [
        (photo, PAINTED[(i * STYLES_A_PHOTO + k) % len(PAINTED)], i)
        for i, photo in enumerate(photos)
        for k in range(STYLES_A_PHOTO)
    ]
    curve = {}
    for strength in STRENGTHS:
        images = painter.paint([painter.request(p, PROMPTS[s][0], seed=i, strength=strength) for p, s, i in trials])
        values = [edge_correlation(photo, out) for (photo, _, _), out in zip(trials, images, strict=True)]
        curve[strength] = float(np.mean(values))
    return [
        Finding(name="edge correlation at strength 0.5", measured=curve[0.5], least=0.5),
        Finding(name="edge correlation, largest rise", measured=float(np.diff(list(curve.values())).max()), most=0),
    ], curve


def edge_correlation(a: Pixels, b: Pixels) -> float:
    """Pearson's correlation of how strong the edges of two images of one size are; 0 where one has none."""
    x, y = (_edges(image).ravel() for image in (a, b))
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else 0.0


def confidence(classifier: StyleClassifier, grid: Grid) -> float:
    """The classifier's mean probability of the prompted style, over the painted styles."""
    means = [classifier.confidences(grid[style])[:, STYLES.index(style)].mean() for style in PAINTED]
    return float(np.mean(means))


def steering(
    painter: Painter, photos: Sequence[Pixels], classifier: StyleClassifier, at_defaults: Grid, by_synonym: Grid
) -> list[Finding]:
    """Whether guidance raises, and a negative prompt lowers, the confidence in the prompted style.

    The negative prompt is the style's name where the prompt is a synonym: were it the prompt itself, guidance would
    have no direction left, and the line would say nothing that the first does not.
    """
    guided = confidence(classifier, at_defaults)
    unguided = confidence(classifier, paint_grid(painter, photos, PAINTED_PROMPTS, guidance_scale=1.0))
    named = confidence(classifier, by_synonym)
    negated = confidence(classifier, paint_grid(painter, photos, SYNONYM_PROMPTS, negated=True))
    return [
        Finding(name="confidence in the style", measured=guided),
        Finding(name="confidence gained by guidance", measured=guided - unguided, least=LEAST_STEERING),
        Finding(name="confidence lost to a negative prompt", measured=named - negated, least=LEAST_STEERING),
    ]


def random_request(
    painter: Painter, photos: Sequence[Pixels], number: int, guidance: tuple[float, float] = USUAL_GUIDANCE
) -> Img2ImgRequest:
    """Case `number` of the random settings, the same every time; small images come more often.

    A negative prompt names a style only where the prompt names one: without it, guidance leads away from that style
    and nowhere else, at high strength to a plain colour.
    """
    rng = random.Random(f"settings {number}")
    width, height = (8 * round(16 * 4 ** rng.random() ** 3) for _ in range(2))
    steps = rng.randint(2, 30)
    words = [prompt_for(rng.choice(STYLES)), rng.choice([name for names in SYNONYMS.values() for name in names])]
    photo, named = fit_photo(rng.choice(photos), width, height), rng.sample(words, rng.randint(0, 2))
    prompt = " ".join([*named, rng.choice(FREE_WORDS)]).strip()
    negative = rng.choice([None, "", prompt_for(rng.choice(STYLES))])
    return painter.request(
        photo,
        prompt,
        negative_prompt=negative if named else None,
        strength=rng.uniform(1.001 / steps, 1),
        num_inference_steps=steps,
        guidance_scale=rng.uniform(*guidance),
        sampler=rng.choice(SAMPLERS),
        seed=rng.getrandbits(32),
    )


def soundness(painter: Painter, photos: Sequence[Pixels], count: int) -> tuple[list[Finding], dict[str, str]]:
    """Whether any of `count` random settings gives NaN, a black or a flat image; also the settings that did.

    A fifth as many are tried at guidance scales above those that the checkpoints are made for.
    """
    usual = _troubles(painter, [random_request(painter, photos, number) for number in range(count)])
    numbers = range(count, count + count // 5)
    high = _troubles(painter, [random_request(painter, photos, number, HIGH_GUIDANCE) for number in numbers])
    return [
        Finding(name=f"failures in {count} random settings", measured=len(usual), most=0),
        Finding(name=f"failures in {len(numbers)} with guidance above {HIGH_GUIDANCE[0]:g}", measured=len(high)),
    ], usual | high


def _troubles(painter: Painter, requests: Sequence[Img2ImgRequest]) -> dict[str, str]:
    troubles = {}
    for request, outcome in zip(requests, painter.attempt(requests), strict=True):
        if trouble := trouble_with(request.pixels, outcome):
            height, width = request.pixels.shape[:2]
            settings = (request.prompt, request.negative_prompt, request.sampler, request.seed, f"{width}x{height}")
            scales = f"{request.num_inference_steps} steps, strength {request.strength}, x{request.guidance_scale}"
            troubles[f"{settings}, {scales}"] = trouble
    return troubles


def trouble_with(source: Pixels, outcome: Pixels | Exception) -> str | None:
    """What is wrong with an image, if the source has it not."""
    if isinstance(outcome, Exception):
        return str(outcome)
    before, after = _luma(source), _luma(outcome)
    if np.percentile(after, 99) < DARK <= np.percentile(before, 99) / 2:
        return "black"
    return "flat" if after.std() < FLAT_STD <= before.std() / 2 else None


def parity(painter: Painter, photos: Sequence[Pixels]) -> list[Finding]:
    """The largest difference, of 255, from what stock diffusers makes of the same requests."""
    stock = StockPipeline(str(painter.checkpoint), "cpu")
    requests = [
        painter.request(photo, PROMPTS[PAINTED[i]][0], negative_prompt=None, sampler="dpmpp_2m", seed=i)
        for i, photo in enumerate(photos[:PARITY_PHOTOS])
    ]
    ours = np.stack(painter.paint(requests)).astype(int)
    theirs = np.stack([stock([request])[0] for request in requests]).astype(int)
    return [Finding(name="difference from stock diffusers, of 255", measured=float(abs(ours - theirs).max()), most=1)]


def _share(table: Confusion, styles: Sequence[str]) -> float:
    """The share of right names over the given prompted styles."""
    return sum(table[style].get(style, 0) for style in styles) / sum(sum(table[style].values()) for style in styles)


def _luma(image: Pixels) -> npt.NDArray[np.float32]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _edges(image: Pixels) -> npt.NDArray[np.float32]:
    smooth = cv2.GaussianBlur(_luma(image), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)).astype(np.float32)
