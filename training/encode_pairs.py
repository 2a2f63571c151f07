"""Paints each training photo in several styles and encodes photos and paintings to latents, once for all training.

Run it as `python -m training.encode_pairs`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderTiny
from rich.progress import track

from training.styles import MANNERS, STYLES, paint

PAINTINGS = 3  # of each photo and manner
_BATCH = 16


def style_of(photo: int, painting: int) -> str:
    """The style that a photo's painting has; the photos are in random order, so going round is as good as drawing."""
    styles = STYLES[1:]
    return styles[(PAINTINGS * photo + painting) % len(styles)]


def paint_all(photos: np.ndarray, manner: str) -> Iterator[np.ndarray]:
    """The paintings of all photos in order, `PAINTINGS` of each, uint8 [256, 256, 3]."""

    def work(number: int) -> np.ndarray:
        photo, painting = divmod(number, PAINTINGS)
        return paint(photos[photo], style_of(photo, painting), manner)

    with ThreadPoolExecutor(2) as pool:
        for first in range(0, count := PAINTINGS * len(photos), 4 * _BATCH):
            yield from pool.map(work, range(first, min(first + 4 * _BATCH, count)))


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: Iterator[np.ndarray], count: int, file: Path, device: str) -> None:
    """Write the latents of `count` images to `file`, float16 [count, 8, 64, 64]."""
    part = file.with_suffix(".part")
    latents = np.lib.format.open_memmap(part, "w+", np.float16, (count, vae.config.latent_channels, 64, 64))
    done = 0
    images = iter(track(images, file.stem, count))
    while batch := list(islice(images, _BATCH)):
        pixels = torch.from_numpy(np.stack(batch)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            encoded = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        latents[done : done + len(batch)] = encoded.float().cpu().numpy() * vae.config.scaling_factor
        done += len(batch)
    latents.flush()
    part.replace(file)


def encode_pairs(
    photos: Annotated[Path, typer.Option(help="the folder that prepare_images wrote")] = Path("data/training"),
    vae: Annotated[Path, typer.Option(help="what train_vae wrote")] = Path("data/training/vae"),
    out: Path = Path("data/training/latents"),
    count: Annotated[int, typer.Option(min=1, help="photos to use")] = 7_000,
    device: str = "cpu",
) -> None:
    """Write `photos.npy` [n, 8, 64, 64] and `fine.npy`, `bold.npy` [3 n, 8, 64, 64]; files already there stay."""
    out.mkdir(parents=True, exist_ok=True)
    images = np.load(photos / "photos.npy", mmap_mode="r")[:count]
    network = AutoencoderTiny.from_pretrained(vae).to(device, memory_format=torch.channels_last)
    if not (out / "photos.npy").exists():
        encode(network, iter(images), len(images), out / "photos.npy", device)
    for manner in MANNERS:
        if not (out / f"{manner}.npy").exists():
            paintings = paint_all(images, manner)
            encode(network, paintings, PAINTINGS * len(images), out / f"{manner}.npy", device)


if __name__ == "__main__":
    typer.run(encode_pairs)
