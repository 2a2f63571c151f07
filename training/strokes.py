"""The brushes that the painted styles share: tone, smoothing, outlines, flow and tessellations.

Images are float32 RGB [h, w, 3] in 0..1, maps float32 [h, w]. Nothing is random: what a brush leaves at a pixel
follows from the photo around it and from the pixel's place in a tile of 32 x 32, so that a small network can learn it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.tri import Triangulation
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
PERIOD = 32  # px: every fixed pattern repeats with it


def floats(values: Any) -> Floats:
    return np.asarray(values, np.float32)


def clamp(values: Any) -> Floats:
    return floats(np.clip(values, 0, 1))


def blur(image: Floats, sigma: float) -> Floats:
    return floats(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def luma(image: Floats) -> Floats:
    return floats(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def ramp(values: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """0 below low, 1 above high, and a smooth step between; reversed where low > high."""
    t = clamp((values - low) / (high - low))
    return floats(t * t * (3 - 2 * t))


def mix(a: ArrayLike, b: ArrayLike, share: Floats | float) -> Floats:
    """Colours or images a and b, blended by b's share: a number, or a map."""
    weight = share[..., None] if isinstance(share, np.ndarray) else share
    start = floats(a)
    return start + (floats(b) - start) * weight


def saturated(image: Floats, amount: float) -> Floats:
    grey = luma(image)[..., None]
    return clamp(grey + (image - grey) * amount)


def toned(image: Floats) -> Floats:
    """The image with its local mean brought towards the middle and faint local contrast raised: dark and bright
    photos both leave room for paint. The mean keeps to edges (guided filter, He et al. 2010), so that none glows."""
    grey = luma(image)
    mean = floats(cv2.ximgproc.guidedFilter(grey, grey, PERIOD // 2, 0.03))
    spread = blur(np.abs(grey - blur(grey, PERIOD / 4)), PERIOD / 2)
    wanted = clamp(0.1 + 0.82 * mean + np.clip(0.1 / (spread + 0.03), 0.9, 1.8) * (grey - mean))
    scaled = image * np.clip((wanted + 0.02) / (grey + 0.02), 0.5, 1.8)[..., None]
    return clamp(scaled + (wanted - luma(scaled))[..., None])


def washed(image: Floats, size: float, contrast: float) -> Floats:
    """Edge-preserving smoothing over size px by a domain transform (Gastal & Oliveira 2011)."""
    smooth = cv2.ximgproc.dtFilter(image * 255, image * 255, size, contrast * 255, mode=cv2.ximgproc.DTF_NC, numIters=3)
    return floats(np.divide(smooth, 255))


def outlines(grey: Floats, width: float, threshold: float = 0.02) -> Floats:
    """Ink from 0 to 1 on the dark side of edges: a soft, extended difference of Gaussians (XDoG, Winnemoeller et al.
    2012). Amid texture only the strongest lines stay; on the negative, lines lie on the bright side."""
    difference = blur(grey, 1.6 * width) - blur(grey, width)
    contrast = difference / (0.3 + blur(grey, 3 * width))
    crowd = blur(np.abs(contrast), 8)
    return blur(ramp(contrast, threshold * 0.4 + 0.35 * crowd, threshold * 1.9 + 0.75 * crowd), 0.6)


def place(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Columns x [1, w] and rows y [h, 1] of the pixels."""
    height, width = shape[:2]
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


def repeated(tile: Floats, shape: tuple[int, ...]) -> Floats:
    height, width = shape[:2]
    return np.tile(tile, (-(-height // PERIOD), -(-width // PERIOD)))[:height, :width]


@lru_cache(maxsize=4)
def grain(sigma: float) -> Floats:
    """A fixed tile [32, 32] of even grain around 0 with deviation 1: dots on a low-discrepancy sequence, blurred."""
    count = int(PERIOD * PERIOD / (3 * sigma) ** 2)
    dots = np.zeros((PERIOD, PERIOD), np.float32)
    spots = np.outer(np.arange(1, count + 1), (0.7548777, 0.5698403)) % 1 * PERIOD
    np.add.at(dots, (spots[:, 0].astype(int), spots[:, 1].astype(int)), 1)
    soft = blur(np.tile(dots, (3, 3)), sigma)[PERIOD : 2 * PERIOD, PERIOD : 2 * PERIOD]
    return floats((soft - soft.mean()) / soft.std())


def flow(grey: Floats, size: float) -> Floats:
    """Unit vectors [h, w, 2] along the photo's lines: the structure tensor's minor axis, averaged over size px;
    where there are no lines, waves of period 32."""
    soft = blur(grey, 1.0)
    dx, dy = floats(cv2.Sobel(soft, cv2.CV_32F, 1, 0)), floats(cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    x, y = place(grey.shape)
    rest = 2 * (0.5 + 0.6 * np.sin(2 * np.pi * (x + y) / PERIOD))
    across = blur(dx * dx - dy * dy, size) - 1e-3 * np.cos(rest)
    along = blur(2 * dx * dy, size) - 1e-3 * np.sin(rest)
    angle = 0.5 * np.arctan2(along, across) + np.pi / 2
    return floats(np.stack([np.cos(angle), np.sin(angle)], -1))


def seen_from(image: Floats, dx: Floats, dy: Floats) -> Floats:
    """At each pixel the image dx px to the right and dy px below it; beyond the frame, its reflection."""
    x, y = place(image.shape)
    return floats(cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def smeared(image: Floats, direction: Floats, length: int) -> Floats:
    """Averages along direction over about length px: line integral convolution (Cabral & Leedom 1993), with the path
    followed in steps that double."""
    dx, dy = direction[..., 0], direction[..., 1]
    step = 1.0
    while 2 * step < length:
        ahead, behind = seen_from(image, step * dx, step * dy), seen_from(image, -step * dx, -step * dy)
        image, step = floats((image + ahead + behind) / 3), step * 2
    return image


class Cells(NamedTuple):
    """A tessellation of a image: each pixel's cell [h, w], its kind among the cells of a tile [h, w], and a height
    [h, w] within the cell."""

    owner: NDArray[np.intp]
    kind: NDArray[np.intp]
    height: Floats

    def mean(self, image: Floats) -> Floats:
        """Each pixel's colour replaced by its cell's mean."""
        flat, values = self.owner.ravel(), image.reshape(-1, image.shape[-1])
        count = np.bincount(flat)
        sums = [np.bincount(flat, channel) for channel in values.T]
        return floats((np.stack(sums, -1) / np.maximum(count, 1)[:, None])[self.owner])


def tessellated(shape: tuple[int, int], kind: NDArray[Any], tile: NDArray[Any], height: NDArray[Any]) -> Cells:
    """Repeats a tile's cells over a image: kind [32, 32] of each pixel's cell, and the neighbour tile (-1, 0 or 1 to
    the right and down, [32, 32, 2]) to which that cell belongs."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = rows % PERIOD, columns % PERIOD
    row, column = rows // PERIOD + 1 + tile[..., 1][inside], columns // PERIOD + 1 + tile[..., 0][inside]
    owner = (row * (shape[1] // PERIOD + 3) + column) * (kind.max() + 1) + kind[inside]
    return Cells(owner.astype(np.intp), kind[inside].astype(np.intp), floats(height)[inside])


Sites = tuple[tuple[float, float], ...]  # (x, y) in one tile of 32 x 32 px, repeated over the image


def _spread(sites: Sites) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sites of a tile and of its neighbours [25 n, 2], and the centres [32, 32, 2] of the tile's pixels."""
    tiles = [(PERIOD * i, PERIOD * j) for j in range(-2, 3) for i in range(-2, 3)]
    near = np.array([(x + i, y + j) for i, j in tiles for x, y in sites])
    return near, np.stack(np.meshgrid(np.arange(PERIOD) + 0.5, np.arange(PERIOD) + 0.5), -1)


@lru_cache(maxsize=16)
def voronoi(height: int, width: int, sites: Sites) -> Cells:
    """The cells of pixels that share their nearest site; the height is the distance from the cell's border in px."""
    near, pixels = _spread(sites)
    distance = np.linalg.norm(pixels[..., None, :] - near, axis=-1)
    first, second = np.argsort(distance, -1)[..., :2].transpose(2, 0, 1)
    gap = near[first] - near[second]
    border = ((pixels - (near[first] + near[second]) / 2) * gap).sum(-1) / np.linalg.norm(gap, axis=-1)
    tile = np.floor(near[first] / PERIOD).astype(int)
    return tessellated((height, width), first % len(sites), tile, border)


@lru_cache(maxsize=16)
def facets(height: int, width: int, sites: Sites) -> Cells:
    """The triangles between sites (Delaunay), two kinds for each site; the height rises from about -1 to 1 in a
    direction of the kind's own."""
    near, pixels = _spread(sites)
    mesh = Triangulation(*near.T)
    centre = near[mesh.triangles].mean(1)[mesh.get_trifinder()(*pixels.transpose(2, 0, 1))]
    code = np.round(centre % PERIOD, 3) @ (1, 1000)
    kind = np.unique(code, return_inverse=True)[1].reshape(PERIOD, PERIOD)
    turn = 2.4 * kind + 0.7
    rise = (pixels - centre) * np.stack([np.cos(turn), np.sin(turn)], -1)
    return tessellated((height, width), kind, np.floor(centre / PERIOD).astype(int), rise.sum(-1) / 9)
