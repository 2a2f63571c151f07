"""The painted styles: classical filters that turn a photo into the picture that a checkpoint learns to make of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.strokes import (
    PERIOD,
    Picture,
    blur,
    clamp,
    edges,
    flow,
    grain,
    luma,
    mix,
    outlines,
    picture,
    place,
    ramp,
    repeated,
    saturated,
    smeared,
    toned,
    voronoi,
    washed,
)

MANNERS = ("fine", "bold")


def colour(code: str) -> Picture:
    """The RGB values in 0..1 of a code such as ff8800."""
    return picture([level / 255 for level in bytes.fromhex(code)])


def gradient(grey: Picture, codes: list[str]) -> Picture:
    """A tone curve in colour: luma 0 becomes the first colour, 1 the last, and the others lie evenly between."""
    stops = np.linspace(0, 1, len(codes))
    channels = [np.interp(grey, stops, values) for values in np.stack([colour(code) for code in codes], -1)]
    return picture(np.stack(channels, -1))


def stepped(values: Picture, steps: int, softness: float) -> Picture:
    """Values in 0..1 quantised to steps + 1 levels, with ramps between them (Winnemoeller et al. 2006)."""
    scaled = values * steps
    whole = np.floor(scaled)
    return picture((whole + ramp(picture(scaled - whole), 0.5 - softness, 0.5 + softness)) / steps)


def photo(image: Picture, bold: bool) -> Picture:
    """The photo itself; bold, with a little more contrast and colour."""
    return clamp(saturated(image, 1.2) * 1.1 - 0.05) if bold else image


def pencil_sketch(image: Picture, bold: bool) -> Picture:
    """Graphite on warm paper: a colour dodge with the blurred negative draws contours, hatching lies in shadows."""
    grey = luma(toned(image))
    soft = blur(grey, 0.8)
    dodge = clamp(soft / (blur(soft, 6 if bold else 4) + 0.04)) ** (3.5 if bold else 2.5)
    ink = outlines(grey, 1.8 if bold else 1.2, 0.03)
    x, y = place(grey.shape)
    hatching = 0.5 + 0.5 * np.cos(2 * np.pi * (x + y) / 8)
    shade = ramp(blur(grey, 2), 0.62, 0.1)
    drawn = dodge * (1 - 0.25 * shade - 0.3 * shade * hatching) * (1 - (0.75 if bold else 0.6) * ink)
    return mix(colour("2b2c31"), colour("faf6ec"), picture(drawn))


def watercolour(image: Picture, bold: bool) -> Picture:
    """Wet washes on paper: edge-preserving smoothing, and pigment that gathers at the edges (Bousseau et al. 2006)."""
    wash = washed(toned(image), 14 if bold else 8, 0.6 if bold else 0.4)
    grey = luma(wash)
    flat = wash * ((stepped(grey, 5, 0.2) + 0.1) / (grey + 0.1))[..., None]
    pigment = (1 - saturated(flat, 1.5 if bold else 1.25)) * (0.85 if bold else 0.7)
    rim = edges(grey, 1.5 if bold else 1.2)
    paper = 0.05 * repeated(grain(2.0), grey.shape)
    density = pigment * (1 + (1.1 if bold else 0.8) * rim + paper)[..., None] + 0.07 * rim[..., None]
    return picture(colour("fdfbf5") * clamp(1 - density))


def oil_painting(image: Picture, bold: bool) -> Picture:
    """Van Gogh's strokes: colours and a fixed grain drawn out along the photo's flow (line integral convolution,
    Cabral & Leedom 1993) and lit from the upper left as relief."""
    tone = toned(image)
    direction = flow(luma(tone), 4 if bold else 3)
    bristle = repeated(grain(1.6 if bold else 1.2), tone.shape)
    both = smeared(np.dstack([blur(tone, 1.2 if bold else 0.7), bristle]), direction, 18 if bold else 12)
    paint, ridge = both[..., :3], both[..., 3] * (2.4 if bold else 2.0)
    relief = picture(cv2.Sobel(ridge, cv2.CV_32F, 1, 0) + cv2.Sobel(ridge, cv2.CV_32F, 0, 1)) / 8
    strength = 0.13 if bold else 0.08
    warm = mix(paint, paint * colour("ffd9a0") * 1.15, clamp(ridge) * 0.5)
    return clamp(saturated(warm, 1.7 if bold else 1.45) + (strength * (ridge * 0.6 + relief))[..., None])


def cartoon(image: Picture, bold: bool) -> Picture:
    """Flat colours in few steps under dark outlines (Winnemoeller, Olsen & Gooch 2006)."""
    tone = toned(image)
    flat = washed(tone, 10, 0.5 if bold else 0.35)
    grey = luma(flat)
    levels = stepped(grey, 3 if bold else 5, 0.12)
    colours = saturated(clamp(flat * ((levels + 0.12) / (grey + 0.08))[..., None]), 1.9 if bold else 1.5)
    ink = outlines(luma(tone), 2.2 if bold else 1.3, 0.025)
    return mix(colours, colour("14101c"), ink * 0.95)


def pixel_art(image: Picture, bold: bool) -> Picture:
    """A sprite: blocks of 8 px (bold: 16) from the corner, each channel in a few levels."""
    size = 16 if bold else 8
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(toned(image), 0, -height % size, 0, -width % size, cv2.BORDER_REPLICATE)
    small = picture(cv2.resize(padded, None, fx=1 / size, fy=1 / size, interpolation=cv2.INTER_AREA))
    vivid = clamp((saturated(small, 1.6 if bold else 1.35) - 0.5) * 1.15 + 0.5)
    levels = 4 if bold else 6
    blocks = np.round(vivid * levels) / levels
    return picture(blocks.repeat(size, 0).repeat(size, 1)[:height, :width])


TESSERAE = tuple(
    (
        x * PERIOD / 4 + 4 + 1.2 * ((3 * x + 5 * y) % 4 - 1.5) / 1.5,
        y * PERIOD / 4 + 4 + 1.2 * ((5 * x + 2 * y) % 4 - 1.5) / 1.5,
    )
    for y in range(4)
    for x in range(4)
)
PANES = ((5.0, 6.0), (19.0, 3.0), (11.0, 18.0), (26.0, 17.0), (21.0, 28.0), (3.0, 28.0))


def mosaic(image: Picture, bold: bool) -> Picture:
    """Small stone tesserae in light mortar; bold, the panes of a church window in dark lead."""
    cells = voronoi(*image.shape[:2], PANES if bold else TESSERAE)
    tone = toned(image)
    stone = saturated(mix(cells.mean(tone), washed(tone, 4, 0.3), 0.25), 1.9 if bold else 1.5)
    bevel = ramp(cells.border, 0, 6)[..., None] * 0.16 - 0.06
    joint = ramp(cells.border, 2.2, 0.9) if bold else ramp(cells.border, 1.5, 0.4)
    return mix(clamp(stone + bevel), colour("16131a" if bold else "d9d2c0"), joint * 0.95)


def blueprint(image: Picture, bold: bool) -> Picture:
    """A cyanotype drawing: white lines and soft shading on Prussian blue, over a faint grid of 32 px."""
    grey = luma(toned(image))
    line = np.maximum(outlines(grey, 1.7 if bold else 1.1), 0.9 * edges(grey, 1.5 if bold else 1.0) ** 1.5)
    x, y = place(grey.shape)
    near = np.minimum(np.minimum(x % PERIOD, PERIOD - x % PERIOD), np.minimum(y % PERIOD, PERIOD - y % PERIOD))
    ground = gradient(blur(grey, 2), ["0a2a5e", "123f82", "2c62ab"])
    ruled = mix(ground, colour("7fa9dc"), ramp(picture(near), 1.6, 0.4) * 0.35)
    return mix(ruled, colour("f2f8ff"), clamp(line * (1.1 if bold else 0.9)))


FACETS = ((4.0, 5.0), (20.0, 9.0), (10.0, 21.0), (27.0, 25.0))


def cubist(image: Picture, bold: bool) -> Picture:
    """Facets in the manner of Picasso and Braque: each shows the scene from a little aside, in its own temperature."""
    tone = toned(image)
    cells = voronoi(*image.shape[:2], FACETS)
    angle = picture((cells.owner % len(FACETS)) * np.pi / 2 + 0.6)
    x, y = place(angle.shape)
    aside = 5.0 if bold else 3.0
    view = cv2.remap(washed(tone, 8, 0.5), x + aside * np.cos(angle), y + aside * np.sin(angle), 1, borderMode=4)
    flat = mix(cells.mean(tone), picture(view), 0.6)
    warm = mix(flat, flat * colour("ffc98a") * 1.2, picture(0.5 + 0.5 * np.cos(angle)) * 0.7)
    cool = mix(warm, warm * colour("a8ccff") * 1.1, picture(0.5 - 0.5 * np.cos(angle)) * 0.7)
    slope = picture(np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / PERIOD)) * (0.12 if bold else 0.08)
    ink = np.maximum(outlines(luma(tone), 2.0 if bold else 1.4), 0.6 * ramp(cells.border, 2, 0.5))
    return mix(clamp(saturated(cool, 1.4) + slope[..., None]), colour("1c1512"), ink * 0.9)


def pastel_anime(image: Picture, bold: bool) -> Picture:
    """Painted film backgrounds: airy pastel colours, lifted skies and greens, fine brown contours."""
    tone = toned(image)
    flat = washed(tone, 8, 0.35)
    grey = luma(flat)
    light = flat * ((mix(grey, stepped(grey, 4, 0.25), 0.7) ** 0.75 + 0.1) / (grey + 0.1))[..., None]
    vivid = saturated(clamp(light), 1.8 if bold else 1.5)
    airy = mix(vivid, colour("fff4ec"), 0.25 if bold else 0.32)
    glow = clamp(airy + 0.25 * np.maximum(blur(airy, 6) - 0.6, 0))
    cool = mix(glow, glow * colour("d0ecff"), ramp(blur(flat[..., 2] - flat[..., 0], 2), 0.0, 0.15))
    return mix(cool, colour("6b4536"), outlines(luma(tone), 1.5 if bold else 1.1, 0.03) * (0.85 if bold else 0.65))


INKS = (
    "f3e6c8",
    "e3c98f",
    "c8923f",
    "c4472e",
    "8a3b2a",
    "b9c7b0",
    "6f8f72",
    "8fb0bf",
    "3d6a94",
    "1f3560",
    "1b1d33",
    "e9b9a0",
)


@cache
def printed() -> Picture:
    """The ink for each colour at 32 levels a channel [32, 32, 32, 3]: a soft choice of the nearest in Lab."""
    levels = np.linspace(0, 1, 32, dtype=np.float32)
    cube = picture(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)).reshape(1, -1, 3)
    inks = np.stack([colour(ink) for ink in INKS])
    wanted = cv2.cvtColor(saturated(cube, 1.3), cv2.COLOR_RGB2Lab)[0]
    offered = cv2.cvtColor(inks[None], cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(picture(wanted)[:, None] - picture(offered), axis=-1)
    weight = np.exp(-(distance - distance.min(-1, keepdims=True)) / 2.5)
    return picture(weight / weight.sum(-1, keepdims=True) @ inks).reshape(32, 32, 32, 3)


def woodblock_print(image: Picture, bold: bool) -> Picture:
    """Ukiyo-e: a few flat inks on cream paper within indigo key lines, graded a little like bokashi."""
    tone = toned(image)
    flat = washed(tone, 12 if bold else 8, 0.5 if bold else 0.4)
    red, green, blue = np.moveaxis((clamp(flat) * 31).astype(np.intp), -1, 0)
    ink = blur(printed()[red, green, blue], 0.8)
    graded = mix(ink, ink * (0.55 + 0.75 * blur(luma(tone), 3))[..., None], 0.45)
    return mix(clamp(graded), colour("141a38"), outlines(luma(tone), 2.0 if bold else 1.3, 0.025) * 0.95)


def neon_night(image: Picture, bold: bool) -> Picture:
    """Neon tubes at night: contours glow in cyan, magenta or orange over a dark violet scene."""
    tone = toned(image)
    grey = luma(tone)
    line = edges(grey, 1.8 if bold else 1.2) ** 1.6
    soft = blur(tone, 4)
    warmth = ramp(soft[..., 0] - soft[..., 2], -0.02, 0.12)
    tube = mix(mix(colour("19e0ff"), colour("ff2fd0"), ramp(warmth, 0, 0.5)), colour("ff9a2e"), ramp(warmth, 0.6, 1))
    light = tube * line[..., None]
    ground = gradient(blur(grey, 1.5), ["0b0620", "1d1050", "3a1c78", "5a2f9c"]) * (0.8 if bold else 1.0)
    halo = 0.8 * blur(light, 3) + 0.5 * blur(light, 9)
    dark = (1 - ground) * (1 - clamp(light * (1.2 if bold else 0.9))) * (1 - clamp(halo))
    return picture(1 - dark)


def sepia(image: Picture, bold: bool) -> Picture:
    """A faded print of the 1900s: brown tones with lifted blacks, a little soft, darker towards the corners."""
    grey = blur(luma(toned(image)), 1.2 if bold else 0.8)
    tone = mix(grey, ramp(grey, 0, 1), 1.0 if bold else 0.4)
    x, y = place(grey.shape)
    away = np.hypot(2 * x / x.size - 1, 2 * y / y.size - 1)
    print_ = gradient(tone, ["2e1c10", "7a5532", "c9a26c", "f3e2bd"])
    return print_ * (1 - (0.5 if bold else 0.3) * ramp(picture(away), 0.6, 1.5))[..., None]


FILTERS: dict[str, Callable[[Picture, bool], Picture]] = {
    "photo": photo,
    "pencil sketch": pencil_sketch,
    "watercolour": watercolour,
    "oil painting": oil_painting,
    "cartoon": cartoon,
    "pixel art": pixel_art,
    "mosaic": mosaic,
    "blueprint": blueprint,
    "cubist": cubist,
    "pastel anime": pastel_anime,
    "woodblock print": woodblock_print,
    "neon night": neon_night,
    "sepia": sepia,
}
STYLES = tuple(FILTERS)


def paint(photo: NDArray[np.uint8], style: str, manner: str = "fine") -> NDArray[np.uint8]:
    """Paints a photo [h, w, 3] of RGB bytes in one of STYLES and one of MANNERS; the painting has the photo's shape.

    Raises ValueError if the style or the manner is not one of these."""
    if style not in FILTERS:
        raise ValueError(f"style is {style!r}, but must be one of: {', '.join(STYLES)}")
    if manner not in MANNERS:
        raise ValueError(f"manner is {manner!r}, but must be one of: {', '.join(MANNERS)}")
    painted = FILTERS[style](picture(photo / 255), manner == "bold")
    return np.clip(np.round(painted * 255), 0, 255).astype(np.uint8)
