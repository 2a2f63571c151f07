"""The painted styles: classical filters that turn a photo into the image that a checkpoint learns to make of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.strokes import (
    PERIOD,
    Floats,
    blur,
    clamp,
    facets,
    floats,
    flow,
    grain,
    luma,
    mix,
    outlines,
    place,
    ramp,
    repeated,
    saturated,
    seen_from,
    smeared,
    toned,
    voronoi,
    washed,
)

MANNERS = ("fine", "bold")


def colour(code: str) -> Floats:
    """The RGB values in 0..1 of a code such as ff8800."""
    return floats([level / 255 for level in bytes.fromhex(code)])


def gradient(grey: Floats, codes: list[str]) -> Floats:
    """A tone curve in colour: luma 0 becomes the first colour, 1 the last, and the others lie evenly between."""
    stops = np.linspace(0, 1, len(codes))
    channels = [np.interp(grey, stops, values) for values in np.stack([colour(code) for code in codes], -1)]
    return floats(np.stack(channels, -1))


def stepped(values: Floats, steps: int, softness: float) -> Floats:
    """Values in 0..1 quantised to steps + 1 levels, with ramps between them (Winnemoeller et al. 2006)."""
    scaled = values * steps
    whole = np.floor(scaled)
    return floats((whole + ramp(floats(scaled - whole), 0.5 - softness, 0.5 + softness)) / steps)


def photo(image: Floats, bold: bool) -> Floats:
    """The photo itself; bold, with a little more contrast and colour."""
    return clamp(saturated(image, 1.2) * 1.1 - 0.05) if bold else image


def pencil_sketch(image: Floats, bold: bool) -> Floats:
    """Graphite on warm paper: a colour dodge with the blurred negative draws contours, hatching lies in shadows."""
    grey = luma(toned(image))
    soft = blur(grey, 0.8)
    dodge = clamp((soft + 0.05) / (blur(soft, 5 if bold else 3) + 0.05)) ** (2.2 if bold else 1.8)
    ink = outlines(grey, 1.8 if bold else 1.2)
    x, y = place(grey.shape)
    hatching = 0.5 + 0.5 * np.cos(2 * np.pi * (x + y) / 8)
    shade = ramp(blur(grey, 1.5), 0.8, -0.05) * (1 - 0.6 * ink)
    shaded = 1 - 0.3 * shade - (0.35 if bold else 0.2) * shade * hatching
    drawn = (0.25 + 0.75 * dodge) * shaded * (1 - (0.9 if bold else 0.8) * ink)
    return mix(colour("26272d"), colour("fbf7ee"), floats(drawn))


def watercolour(image: Floats, bold: bool) -> Floats:
    """Wet washes on paper: edge-preserving smoothing, and pigment that gathers at the edges (Bousseau et al. 2006)."""
    wash = washed(toned(image), 14 if bold else 8, 0.5 if bold else 0.35)
    grey = luma(wash)
    level = 0.3 + 0.7 * stepped(grey, 4 if bold else 6, 0.35)
    flat = saturated(clamp(wash * (level / (grey + 0.05))[..., None]), 1.5 if bold else 1.2)
    rim = outlines(grey, 1.5 if bold else 1.2, 0.015)
    gathered = 0.55 * rim + 0.6 * blur(rim, 4)
    density = (1 - flat) * ((0.75 if bold else 0.6) + (0.75 if bold else 0.5) * gathered)[..., None]
    return floats(colour("fffdf7") * clamp(1 - density))


def oil_painting(image: Floats, bold: bool) -> Floats:
    """Van Gogh's strokes: colours and a fixed grain drawn out along the photo's flow (line integral convolution,
    Cabral & Leedom 1993) and lit from the upper left as relief."""
    tone = toned(image)
    direction = flow(luma(tone), 4 if bold else 3)
    paint = smeared(blur(tone, 1.0 if bold else 0.7), direction, 9 if bold else 5)
    bristle = smeared(repeated(grain(1.9 if bold else 1.4), tone.shape), direction, 24 if bold else 14)
    ridge = bristle * (2.0 if bold else 1.6)
    relief = floats(cv2.Sobel(ridge, cv2.CV_32F, 1, 0) + cv2.Sobel(ridge, cv2.CV_32F, 0, 1)) / 8
    hue = mix(colour("e4f0ff"), colour("fff0cf"), clamp(0.5 + 0.5 * ridge))
    vivid = saturated(paint * hue * 1.06, 1.75 if bold else 1.45)
    return clamp(vivid + ((0.11 if bold else 0.07) * (0.6 * ridge + relief))[..., None])


def cartoon(image: Floats, bold: bool) -> Floats:
    """Flat colours in few steps under dark outlines (Winnemoeller, Olsen & Gooch 2006)."""
    tone = toned(image)
    flat = washed(tone, 10, 0.5 if bold else 0.35)
    grey = luma(flat)
    levels = 0.08 + 0.92 * stepped(grey, 3 if bold else 5, 0.12)
    colours = saturated(clamp(flat * ((levels + 0.04) / (grey + 0.04))[..., None]), 2.0 if bold else 1.5)
    ink = outlines(luma(tone), 2.2 if bold else 1.3)
    return mix(colours, colour("14101c"), ink * 0.95)


def blocks(image: Floats, size: int) -> Floats:
    """The mean colour of each block of size x size px, counted from the corner; at the far sides blocks are cut."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % size, 0, -width % size, cv2.BORDER_REPLICATE)
    small = floats(cv2.resize(padded, None, fx=1 / size, fy=1 / size, interpolation=cv2.INTER_AREA))
    return small.repeat(size, 0).repeat(size, 1)[:height, :width]


def pixel_art(image: Floats, bold: bool) -> Floats:
    """A sprite: blocks of 8 px in a limited palette; bold, blocks of 16 px that only strong detail divides."""
    tone = toned(image)
    sprite = blocks(clamp(tone + 0.6 * (tone - blur(tone, 6))), 8)
    if bold:
        coarse = blocks(tone, 16)
        detail = blocks(floats(np.abs(sprite - coarse).max(-1)), 16)
        sprite = np.where((detail > 0.1)[..., None], sprite, coarse)
    ycc = floats(cv2.cvtColor(saturated(sprite, 1.6 if bold else 1.3), cv2.COLOR_RGB2YCrCb))
    steps = np.array([5, 12, 12] if bold else [8, 18, 18])  # even for chroma: grey stays grey
    return clamp(cv2.cvtColor(floats(np.round(ycc * steps) / steps), cv2.COLOR_YCrCb2RGB))


TESSERAE = tuple(
    (x + dx, y + dy)
    for y, shift in ((5.3, 0.0), (16.0, 1.5), (26.7, -1.5))
    for x, dx, dy in ((5.3 + shift, 0.8, -0.9), (16.0 + shift, -0.6, 0.9), (26.7 + shift, 0.3, 0.2))
)
PANES = ((5.0, 5.0), (21.0, 11.0), (10.0, 24.0))


def mosaic(image: Floats, bold: bool) -> Floats:
    """Small stone tesserae in light mortar; bold, a church window whose dark lead follows the outlines too."""
    cells = voronoi(*image.shape[:2], PANES if bold else TESSERAE)
    tone = toned(image)
    detail = washed(tone, 4, 0.3)
    stone = blur(saturated(mix(cells.mean(tone), detail, 0.55), 2.0 if bold else 1.6), 0.6)
    lit = clamp(stone * (1.1 if bold else 1.0) + ramp(cells.height, 0, 6)[..., None] * (0.16 if bold else 0.1) - 0.05)
    if bold:
        lead = np.maximum(ramp(cells.height, 2.4, 0.3) * 0.85, outlines(luma(detail), 2.0, 0.03))
        return mix(lit, colour("16131a"), lead * 0.95)
    return mix(lit, mix(stone, colour("efe6d2"), 0.4), ramp(cells.height, 2.2, 0.2))


def blueprint(image: Floats, bold: bool) -> Floats:
    """A cyanotype drawing: white lines and soft shading on Prussian blue, over a faint grid of 32 px."""
    grey = luma(toned(image))
    line = outlines(1 - grey, 1.8 if bold else 1.2, 0.015)
    x, y = place(grey.shape)
    near = np.minimum(np.minimum(x % PERIOD, PERIOD - x % PERIOD), np.minimum(y % PERIOD, PERIOD - y % PERIOD))
    ground = gradient(blur(grey, 1.5), ["06204d", "123f82", "3f76bd"] if bold else ["0d3069", "1d4f95", "4f86c9"])
    ruled = mix(ground, colour("8fb6e6"), ramp(floats(near), 1.8, 0.4) * 0.3)
    return mix(ruled, colour("f4f9ff"), line * (1.0 if bold else 0.85))


PLANES = ((2.0, 5.0), (22.0, 1.0), (13.0, 20.0))
TEMPERATURES = ("ffdf9c", "a4c3f0", "f2b48c", "cfe0c8", "fff0d8", "b8b4e0")


def cubist(image: Floats, bold: bool) -> Floats:
    """Facets in the manner of Picasso and Braque: slanting planes, each shaded towards an edge and in a temperature of
    its own, show the scene from a little aside."""
    tone = toned(image)
    cells = facets(*tone.shape[:2], PLANES)
    turn = floats(2.4 * cells.kind)
    aside = 3.0 if bold else 2.0
    flat = washed(tone, 8, 0.4)
    view = seen_from(flat, floats(aside * np.cos(turn)), floats(aside * np.sin(turn)))
    hues = np.stack([colour(code) for code in TEMPERATURES])
    tints = mix((1, 1, 1), hues / hues.mean(-1, keepdims=True), 0.9 if bold else 0.6)
    plane = mix(view, cells.mean(tone), 0.5 if bold else 0.35) * tints[cells.kind]
    shaded = blur(plane + (0.1 if bold else 0.07) * cells.height[..., None], 0.6)
    ink = outlines(luma(flat), 2.2 if bold else 1.5)
    return mix(clamp(saturated(shaded, 1.3)), colour("1c1512"), ink * 0.95)


def pastel_anime(image: Floats, bold: bool) -> Floats:
    """Painted film backgrounds: airy pastel colours, blue shadows and warm light, fine brown contours."""
    tone = toned(image)
    flat = washed(tone, 8, 0.35)
    grey = luma(flat)
    level = mix(grey, stepped(grey, 4, 0.25), 0.7) ** 0.75
    vivid = saturated(clamp(flat * ((level + 0.08) / (grey + 0.08))[..., None]), 2.0 if bold else 1.5)
    light = gradient(level, ["7f8fd8", "a9c8ec", "ffe6d2", "fffaf0"])
    airy = mix(vivid, light, 0.28 if bold else 0.36)
    glow = clamp(airy + 0.3 * np.maximum(blur(airy, 6) - 0.6, 0))
    return mix(glow, colour("6b4536"), outlines(luma(tone), 1.8 if bold else 1.1) * (0.9 if bold else 0.6))


WARM_INKS = ("f3e6c8", "e3c98f", "e9b9a0", "c8923f", "c4472e", "8a3b2a")
COOL_INKS = ("b9c7b0", "6f8f72", "8fb0bf", "3d6a94", "1f3560", "1b1d33")


@cache
def printed() -> Floats:
    """The ink for each colour at 32 levels a channel [32, 32, 32, 3]: a soft choice of the nearest in Lab."""
    levels = np.linspace(0, 1, 32, dtype=np.float32)
    cube = floats(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)).reshape(1, -1, 3)
    inks = np.stack([colour(ink) for ink in WARM_INKS + COOL_INKS])
    wanted = cv2.cvtColor(saturated(cube, 1.3), cv2.COLOR_RGB2Lab)[0]
    offered = cv2.cvtColor(inks[None], cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(floats(wanted)[:, None] - floats(offered), axis=-1)
    weight = np.exp(-(distance - distance.min(-1, keepdims=True)) / 2.5)
    return floats(weight / weight.sum(-1, keepdims=True) @ inks).reshape(32, 32, 32, 3)


def woodblock_print(image: Floats, bold: bool) -> Floats:
    """Ukiyo-e: a few flat inks on cream paper within indigo key lines, graded a little like bokashi."""
    tone = toned(image)
    flat = washed(tone, 12 if bold else 8, 0.5 if bold else 0.4)
    red, green, blue = np.moveaxis((flat * 31).astype(np.intp), -1, 0)
    ink = blur(printed()[red, green, blue], 0.8)
    graded = ink * (0.75 + 0.5 * blur(luma(tone), 3))[..., None] if bold else mix(ink, flat, 0.3)
    return mix(clamp(graded), colour("141a38"), outlines(luma(tone), 2.2 if bold else 1.3) * 0.95)


def neon_night(image: Floats, bold: bool) -> Floats:
    """Neon tubes at night: contours glow in cyan, magenta or orange over a dark violet scene."""
    tone = toned(image)
    grey = luma(tone)
    soft = blur(tone, 4)
    warmth = ramp(soft[..., 0] - soft[..., 2], -0.05, 0.25)
    tube = mix(mix(colour("19e0ff"), colour("ff2fd0"), ramp(warmth, 0, 0.5)), colour("ff9a2e"), ramp(warmth, 0.6, 1))
    light = tube * outlines(1 - grey, 2.0 if bold else 1.3, 0.015)[..., None]
    night = ["080418", "1a0f4a", "3d2186", "6f44b8"] if bold else ["0d0826", "25175e", "4a2f94", "7f5fc4"]
    ground = gradient(blur(grey, 1.2), night)
    halo = (0.9 if bold else 0.5) * (blur(light, 3) + 0.6 * blur(light, 8))
    return floats(1 - (1 - ground) * (1 - clamp(light)) * (1 - clamp(halo)))


def sepia(image: Floats, bold: bool) -> Floats:
    """A faded print of the 1900s: brown tones with lifted blacks, a little soft, darker towards the corners."""
    grey = blur(luma(toned(image)), 1.2 if bold else 0.8)
    tone = mix(grey**0.85, ramp(grey, 0, 0.95), 0.9 if bold else 0.3)
    x, y = place(grey.shape)
    away = np.hypot(2 * x / x.size - 1, 2 * y / y.size - 1)
    paper = gradient(tone, ["2e1c10", "7a5532", "c9a26c", "f3e2bd"])
    return paper * (1 - (0.5 if bold else 0.3) * ramp(floats(away), 0.6, 1.5))[..., None]


FILTERS: dict[str, Callable[[Floats, bool], Floats]] = {
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
    painted = FILTERS[style](floats(photo / 255), manner == "bold")
    return np.clip(np.round(painted * 255), 0, 255).astype(np.uint8)
