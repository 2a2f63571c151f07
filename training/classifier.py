"""Names the style of an image: a small convolutional network, trained on what the filters of `styles` paint.

python -m training.classifier --photos FOLDER --out FILE.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from deployments.engine.request import Pixels
from training.styles import MANNERS, STYLES, paint

WIDTHS = (16, 32, 64, 96)  # channels at a half, a quarter ... of the image's resolution
HIDDEN = 64
PHOTOS = 3000
PAINTINGS = 4  # of each photo, in styles and manners drawn at random: many photos matter more than many paintings
STEPS = 5000
BATCH = 32
CROP_PX = 160  # of a painted photo: enough to tell, wherever the grid of the style begins
LABELS = ", ".join(STYLES)
console = Console()


class StyleClassifier(nn.Module):
    """A few strided convolutions, and two layers on the mean and spread of every channel of every one of them.

    Those statistics are what makes a style, wherever things are in the image (Gatys et al. 2016).
    """

    def __init__(self) -> None:
        super().__init__()
        channels = (3, *WIDTHS)
        self.blocks = nn.ModuleList(_block(narrow, wide) for narrow, wide in pairwise(channels))
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * sum(channels)),
            nn.Linear(2 * sum(channels), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, len(STYLES)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, styles) of images (n, 3, h, w) in [0, 1], from 64 px a side."""
        maps = 2 * images - 1
        statistics = _statistics(maps)
        for block in self.blocks:
            maps = block(maps)
            statistics += _statistics(maps)
        logits: torch.Tensor = self.head(torch.cat(statistics, dim=1))
        return logits

    @torch.inference_mode()
    def confidences(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """The probability of each style, (n, styles) in the order of STYLES, for images of one size."""
        self.eval()
        chunks = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        rows: npt.NDArray[np.float32] = torch.cat([self(_tensor(chunk)).softmax(1) for chunk in chunks]).numpy()
        return rows

    def names(self, images: Sequence[Pixels]) -> list[str]:
        """The most probable style of each image."""
        return [STYLES[i] for i in self.confidences(images).argmax(1)]

    def save(self, file: Path) -> None:
        """Write the weights, with the styles they were trained to tell apart."""
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), file, metadata={"styles": LABELS})

    @classmethod
    def load(cls, file: Path) -> StyleClassifier:
        """Read what `save` wrote. Raises ValueError if it was trained for other styles."""
        with safe_open(file, framework="pt") as tensors:
            labels = (tensors.metadata() or {}).get("styles")
        if labels != LABELS:
            raise ValueError(f"{file}: trained for the styles {labels}, not {LABELS}: train it again")
        classifier = cls()
        classifier.load_state_dict(load_file(file))
        return classifier.eval()


def _block(narrow: int, wide: int) -> nn.Module:
    convolution = nn.Conv2d(
        narrow, wide, 5 if narrow == 3 else 3, stride=2, padding=2 if narrow == 3 else 1, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(wide), nn.ReLU())


def _statistics(maps: torch.Tensor) -> list[torch.Tensor]:
    """Each channel's mean and the logarithm of its variance, two tensors (n, channels)."""
    mean = maps.mean((2, 3))
    variance = (maps * maps).mean((2, 3)) - mean * mean  # ten times as fast as torch.var on a CPU
    return [mean, torch.log(variance.clamp(min=0) + 1e-4)]


def _tensor(images: Sequence[Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def train(photos: Pixels, *, steps: int = STEPS, seed: int = 0) -> StyleClassifier:
    """A classifier trained on paintings of the first PHOTOS of `photos` (n, h, w, 3), sides of at least CROP_PX."""
    rng = np.random.default_rng(seed)
    paintings, labels = _paint_some(photos[:PHOTOS], rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = StyleClassifier().train()
        optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.15)
        for _ in track(range(steps), "training", console=console):
            chosen = rng.integers(len(labels), size=BATCH)
            images = [degrade(_window(painting, rng), rng) for painting in paintings[chosen]]
            loss = nn.functional.cross_entropy(classifier(_tensor(images)), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return classifier.eval()


def _paint_some(photos: Pixels, rng: np.random.Generator) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """PAINTINGS of every photo, and the numbers of their styles, which all come equally often."""
    count = PAINTINGS * len(photos)
    labels = rng.permutation(np.arange(count) % len(STYLES))
    paintings = np.empty((count, *photos.shape[1:]), np.uint8)
    for i in track(range(count), "painting", console=console):
        paintings[i] = paint(photos[i // PAINTINGS], STYLES[labels[i]], MANNERS[rng.integers(len(MANNERS))])
    return paintings, labels


def _window(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A random square of CROP_PX, mirrored half of the time."""
    top, left = (int(rng.integers(side - CROP_PX + 1)) for side in image.shape[:2])
    window = image[top : top + CROP_PX, left : left + CROP_PX]
    return window[:, ::-1] if rng.random() < 0.5 else window


def degrade(image: Pixels, rng: np.random.Generator) -> Pixels:
    """The image as an autoencoder or a generator may give it: softer, blotched, off in colour, noisy, compressed."""
    values: npt.NDArray[np.floating[Any]] = image.astype(np.float32)
    if rng.random() < 0.5:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.2)).astype(np.float32)
    if rng.random() < 0.3:
        values += _blotches(values.shape, rng)
    contrast = rng.uniform(0.9, 1.1) * rng.uniform(0.96, 1.04, 3).astype(np.float32)
    values = (values - 128) * contrast + 128 + rng.uniform(-8, 8)
    if rng.random() < 0.3:
        values += rng.uniform(1, 8) * rng.standard_normal(values.shape, np.float32)
    degraded = values.clip(0, 255).astype(np.uint8)
    return _compressed(degraded, int(rng.integers(40, 96))) if rng.random() < 0.3 else degraded


def _blotches(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise of a latent's grain, 8 px."""
    height, width, _ = shape
    coarse = rng.normal(0, rng.uniform(2, 8), (height // 8, width // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def _compressed(image: Pixels, quality: int) -> Pixels:
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def accuracies(classifier: StyleClassifier, photos: Sequence[Pixels], *, seed: int | None = None) -> dict[str, float]:
    """The share of right names by style, over paintings of `photos` in both manners; with `seed`, degraded ones."""
    shares = {}
    for style in STYLES:
        paintings = [paint(photo, style, manner) for photo in photos for manner in MANNERS]
        if seed is not None:
            rng = np.random.default_rng(seed)
            paintings = [degrade(painting, rng) for painting in paintings]
        shares[style] = float(np.mean([name == style for name in classifier.names(paintings)]))
    return shares


def main(
    photos: Annotated[Path, typer.Option(help="The folder with photos.npy and held_out.npy.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
) -> None:
    """Train on paintings of photos.npy, and say how many of those of held_out.npy are named rightly."""
    classifier = train(np.load(photos / "photos.npy", mmap_mode="r"))
    classifier.save(out)
    held_out = np.load(photos / "held_out.npy")
    clean, degraded = accuracies(classifier, held_out), accuracies(classifier, held_out, seed=0)
    table = Table("style", "named rightly", "degraded", title=f"{len(held_out)} unseen photos, both manners")
    for style in STYLES:
        table.add_row(style, f"{clean[style]:.1%}", f"{degraded[style]:.1%}")
    table.add_row("all", *(f"{np.mean(list(shares.values())):.1%}" for shares in (clean, degraded)))
    console.print(table)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
