"""Cuts training and held-out crops of 256 px from folders of freely licensed images.

Run it as `python -m training.prepare_images FOLDER... --out data/training`; `training/README.md` says where the
images come from. Crops come from random places at random scales and aspects; cut-out images (with an alpha
channel) are laid over other crops. One image in twelve is held out, by a hash of its name.
"""

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.progress import track

PIXELS = 256
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_DRAWN = {"alphabets", "cartoon", "symbols", "math", "money", "signs", "flags", "music", "chess", "naturalforces"}
_CUT_OUT_SHARE = 0.3
_FLATTEST = 15.0  # standard deviation of the 8-bit values under which a crop teaches nothing


def is_held_out(path: Path) -> bool:
    """Whether the image is kept from training: one in twelve, by its name, the same on every machine."""
    return hashlib.sha256(path.name.encode()).digest()[0] % 12 == 0


def find_images(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """The wide images (at least 480 px) and the cut-outs (at least 160 px, transparent) under the folders.

    Copies of one image at other sizes are left out: of the files that look alike, the largest stays.
    """
    wide: dict[bytes, tuple[int, Path]] = {}
    cut_outs: dict[bytes, tuple[int, Path]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES or _DRAWN & set(path.parts) or path.is_symlink():
            continue
        with Image.open(path) as image:
            transparent = image.has_transparency_data and not np.asarray(image.convert("RGBA"))[..., 3].all()
            shortest = min(image.size)
            if shortest < (160 if transparent else 480):
                continue
            kind, look = cut_outs if transparent else wide, _look(image)
        if kind.get(look, (0, path))[0] < shortest:
            kind[look] = shortest, path
    return [path for _, path in wide.values()], [path for _, path in cut_outs.values()]


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random part of the image, its aspect up to 1:1.3, made 256 px square and mirrored half of the time."""
    aspect = 1.3 ** rng.uniform(-1, 1)
    longest = min(image.width / max(aspect, 1), image.height * min(aspect, 1))
    side = longest * (PIXELS / max(longest, PIXELS)) ** rng.uniform(0, 0.85)
    width, height = side * max(aspect, 1), side / min(aspect, 1)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    part = image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS, (left, top, left + width, top + height), 3.0)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def lay_over(cut_out: Image.Image, ground: Image.Image, rng: random.Random) -> Image.Image:
    """The cut-out somewhere on the ground, 50 to 120% of its size."""
    scale = PIXELS * rng.uniform(0.5, 1.2) / max(cut_out.size)
    small = cut_out.resize((max(1, round(cut_out.width * scale)), max(1, round(cut_out.height * scale))))
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    laid = ground.copy()
    left, top = (rng.randint(*sorted((0, PIXELS - side))) for side in small.size)
    laid.paste(small, (left, top), small)
    return laid


def detail(path: Path) -> float:
    """How much there is to see, 0.3 to 1.5: bits per pixel of the image as a small JPEG."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((512, 512))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return min(max(8 * file.tell() / (image.width * image.height), 0.3), 1.5)


def make_crops(wide: list[Path], cut_outs: list[Path], count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` crops, uint8 [256, 256, 3], more from images with more detail; flat ones are drawn again."""
    rng = random.Random(seed)
    shares = np.cumsum([detail(path) for path in wide])
    counts = np.diff(np.round(count * shares / shares[-1]).astype(int), prepend=0)
    for path, crops in zip(wide, counts, strict=True):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            image.thumbnail((1600, 1600), Image.Resampling.LANCZOS, 3.0)
        for _ in range(crops):
            for _ in range(20):
                part = crop(image, rng)
                if np.asarray(part).std() >= _FLATTEST:
                    break
            if cut_outs and rng.random() < _CUT_OUT_SHARE:
                with Image.open(rng.choice(cut_outs)) as opened:
                    part = lay_over(opened.convert("RGBA"), part, rng)
            yield np.asarray(part)


def prepare(
    folders: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="folders of images")],
    out: Annotated[Path, typer.Option(help="where photos.npy and held_out.npy go")] = Path("data/training"),
    count: Annotated[int, typer.Option(min=1, help="training crops")] = 12_000,
    seed: int = 0,
) -> None:
    """Write `photos.npy` and `held_out.npy`, uint8 [n, 256, 256, 3], in random order."""
    wide, cut_outs = find_images(folders)
    if not wide:
        raise typer.BadParameter(f"no image of at least 480 px in {', '.join(map(str, folders))}")
    out.mkdir(parents=True, exist_ok=True)
    for name, wanted, held in ("photos", count, False), ("held_out", 24, True):
        grounds, laid = ([path for path in kind if is_held_out(path) == held] for kind in (wide, cut_outs))
        print(f"{name}: {wanted} crops of {len(grounds)} images and {len(laid)} cut-outs")
        crops = np.stack([*track(make_crops(grounds, laid, wanted, seed), name, wanted)])
        np.save(out / f"{name}.npy", np.random.default_rng(seed).permutation(crops))


def _look(image: Image.Image) -> bytes:
    """What stays the same when an image is resized: which of its 12 x 12 cells are brighter than their mean."""
    small = np.asarray(image.convert("L").resize((12, 12)), dtype=np.float32)
    return bool(image.width > image.height).to_bytes() + np.packbits(small > small.mean()).tobytes()


if __name__ == "__main__":
    typer.run(prepare)
