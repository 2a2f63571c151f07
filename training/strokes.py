"""The brushes that the painted styles share: tone, smoothing, outlines, flow and tessellations.

Pictures are float32 RGB [h, w, 3] in 0..1, maps float32 [h, w]. Nothing is random: what a brush leaves at a pixel
follows from the photo around it and from the pixel's place in a tile of 32 x 32, so that a small network can learn it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Picture = NDArray[np.float32]
PERIOD = 32  # px: every fixed pattern repeats with it


def picture(values: Any) -> Picture:
    return np.asarray(values, np.float32)


def clamp(values: Any) -> Picture:
    return picture(np.clip(values, 0, 1))


def blur(image: Picture, sigma: float) -> Picture:
    return picture(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def luma(image: Picture) -> Picture:
    return picture(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def ramp(values: Picture, low: float, high: float) -> Picture:
    """0 below low, 1 above high, and a smooth step between; reversed where low > high."""
    t = clamp((values - low) / (high - low))
    return picture(t * t * (3 - 2 * t))


def mix(a: ArrayLike, b: ArrayLike, share: Picture | float) -> Picture:
    """Colours or pictures a and b, blended by b's share: a number, or a map."""
    weight = share[..., None] if isinstance(share, np.ndarray) else share
    start = picture(a)
    return start + (picture(b) - start) * weight


def saturated(image: Picture, amount: float) -> Picture:
    grey = luma(image)[..., None]
    return clamp(grey + (image - grey) * amount)


def toned(image: Picture) -> Picture:
    """The picture with its local mean brought towards the middle and faint local contrast raised: dark and bright
    photos both leave room for paint."""
    grey = luma(image)
    mean = blur(grey, PERIOD / 2)
    deviation = np.sqrt(np.maximum(blur(grey * grey, PERIOD / 2) - mean * mean, 0))
    gain = np.clip(0.2 / (deviation + 0.02), 0.9, 1.7)
    wanted = clamp(0.14 + 0.78 * mean + gain * (grey - mean))
    scaled = image * np.clip((wanted + 0.02) / (grey + 0.02), 0.5, 2.2)[..., None]
    return clamp(scaled + (wanted - luma(scaled))[..., None])


def washed(image: Picture, size: float, contrast: float) -> Picture:
    """Edge-preserving smoothing over size px by a domain transform (Gastal & Oliveira 2011)."""
    smooth = cv2.ximgproc.dtFilter(image * 255, image * 255, size, contrast * 255, mode=cv2.ximgproc.DTF_NC, numIters=3)
    return picture(np.divide(smooth, 255))


def outlines(grey: Picture, width: float, threshold: float = 0.02) -> Picture:
    """Ink from 0 to 1 where the photo has a line: a soft, extended difference of Gaussians (XDoG, Winnemoeller 2012),
    smoothed along the line so that it does not fray."""
    difference = blur(grey, 1.6 * width) - blur(grey, width)
    contrast = difference / (0.3 + blur(grey, 3 * width))
    return ramp(blur(contrast, 0.7), threshold * 0.4, threshold * 1.9)


def edges(grey: Picture, width: float) -> Picture:
    """Strength of the edges from 0 to 1, about as wide as width px: the gradient of the blurred luma, compressed."""
    soft = blur(grey, width)
    gradient = cv2.magnitude(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    strength = picture(gradient) * width
    return strength / (strength + 0.25)


def place(shape: tuple[int, ...]) -> tuple[Picture, Picture]:
    """Columns x [1, w] and rows y [h, 1] of the pixels."""
    height, width = shape[:2]
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


def repeated(tile: Picture, shape: tuple[int, ...]) -> Picture:
    height, width = shape[:2]
    return np.tile(tile, (-(-height // PERIOD), -(-width // PERIOD)))[:height, :width]


@lru_cache(maxsize=4)
def grain(sigma: float) -> Picture:
    """A fixed tile [32, 32] of even grain around 0 with deviation 1: dots on a low-discrepancy sequence, blurred."""
    count = int(PERIOD * PERIOD / (3 * sigma) ** 2)
    dots = np.zeros((PERIOD, PERIOD), np.float32)
    spots = np.outer(np.arange(1, count + 1), (0.7548777, 0.5698403)) % 1 * PERIOD
    np.add.at(dots, (spots[:, 0].astype(int), spots[:, 1].astype(int)), 1)
    soft = blur(np.tile(dots, (3, 3)), sigma)[PERIOD : 2 * PERIOD, PERIOD : 2 * PERIOD]
    return picture((soft - soft.mean()) / soft.std())


def flow(grey: Picture, size: float) -> Picture:
    """Unit vectors [h, w, 2] along the photo's lines: the structure tensor's minor axis, averaged over size px;
    where there are no lines, waves of period 32."""
    soft = blur(grey, 1.0)
    dx, dy = picture(cv2.Sobel(soft, cv2.CV_32F, 1, 0)), picture(cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    x, y = place(grey.shape)
    rest = 2 * (0.5 + 0.5 * np.sin(2 * np.pi * (x + y) / PERIOD))
    across = blur(dx * dx - dy * dy, size) - 2e-3 * np.cos(rest)
    along = blur(2 * dx * dy, size) - 2e-3 * np.sin(rest)
    angle = 0.5 * np.arctan2(along, across) + np.pi / 2
    return picture(np.stack([np.cos(angle), np.sin(angle)], -1))


def smeared(image: Picture, direction: Picture, length: int) -> Picture:
    """Averages along direction over about length px: line integral convolution (Cabral & Leedom 1993), with the path
    followed in steps that double."""
    x, y = place(image.shape)
    step = 1.0
    while 2 * step < length:
        ahead = picture(
            cv2.remap(
                image, x + step * direction[..., 0], y + step * direction[..., 1], 1, borderMode=cv2.BORDER_REFLECT
            )
        )
        behind = picture(
            cv2.remap(
                image, x - step * direction[..., 0], y - step * direction[..., 1], 1, borderMode=cv2.BORDER_REFLECT
            )
        )
        image, step = picture((image + ahead + behind) / 3), step * 2
    return image


class Cells(NamedTuple):
    """A tessellation: each pixel's cell [h, w], and its distance in px from the cell's border."""

    owner: NDArray[np.intp]
    border: Picture

    def mean(self, image: Picture) -> Picture:
        """Each pixel's colour replaced by its cell's mean."""
        flat, values = self.owner.ravel(), image.reshape(-1, image.shape[-1])
        count = np.bincount(flat)
        sums = [np.bincount(flat, channel) for channel in values.T]
        return picture((np.stack(sums, -1) / np.maximum(count, 1)[:, None])[self.owner])


@lru_cache(maxsize=16)
def voronoi(height: int, width: int, sites: tuple[tuple[float, float], ...]) -> Cells:
    """Cells around sites (x, y) given for one tile of 32 x 32 and repeated over the picture."""
    tiles = [(i, j) for j in range(-1, 2) for i in range(-1, 2)]
    near = np.array([(x + PERIOD * i, y + PERIOD * j) for i, j in tiles for x, y in sites], np.float32)
    x, y = (axis + 0.5 for axis in place((PERIOD, PERIOD)))
    distance = np.hypot(x[..., None] - near[:, 0], y[..., None] - near[:, 1])
    first, second = np.argsort(distance, -1)[..., :2].transpose(2, 0, 1)
    gap = near[first] - near[second]
    middle = (near[first] + near[second]) / 2
    border = np.abs((x - middle[..., 0]) * gap[..., 0] + (y - middle[..., 1]) * gap[..., 1]) / np.hypot(
        *gap.transpose(2, 0, 1)
    )

    rows, columns = np.ogrid[:height, :width]
    owner = first[rows % PERIOD, columns % PERIOD]
    tile, site = np.divmod(owner, len(sites))
    stride = width // PERIOD + 3
    row, column = rows // PERIOD + tile // 3, columns // PERIOD + tile % 3
    index = ((row * stride + column) * len(sites) + site).astype(np.intp)
    return Cells(index, repeated(picture(border), (height, width)))
