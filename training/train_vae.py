"""Trains the autoencoder of the embedded checkpoints: f4, 8 latent channels, on photos and their paintings.

Run it as `python -m training.train_vae`. diffusers' AutoencoderTiny (the architecture of TAESD) has no posterior to
sample, so equal pixels give equal latents.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from rich.progress import track
from torch import nn

from training.loop import train
from training.styles import MANNERS, STYLES, paint

_CROP = 128  # pixels; the network is convolutional, so small crops teach as much per pixel and more per step
_NOISE = 0.1  # of the latents' deviation: a decoder that has seen noise forgives the UNet's errors


def make_vae() -> AutoencoderTiny:
    """The untrained autoencoder: 0.65 M parameters, [b, 3, h, w] to [b, 8, h / 4, w / 4].

    Initialised so that signals keep their scale through the layers and the residual branches begin small; with
    PyTorch's default it learns five times slower.
    """
    vae = AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(48,) * 3,
        decoder_block_out_channels=(48,) * 3,
        num_encoder_blocks=(0, 1, 3),
        num_decoder_blocks=(3, 2, 0),
    )
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in vae.modules():
        if isinstance(layer, AutoencoderTinyBlock):
            layer.conv[-1].weight.data.mul_(0.1)
    vae.decoder.layers[-1].weight.data.mul_(0.3)
    return vae


def paint_some(photos: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` paintings of photos drawn at random, in all styles and manners, uint8 [count, 256, 256, 3]."""
    rng = np.random.default_rng(seed)
    names = [(style, manner) for style in STYLES[1:] for manner in MANNERS]
    chosen = rng.choice(len(photos), count)
    return np.stack([paint(photos[i], *names[n % len(names)]) for n, i in enumerate(track(chosen, "paintings"))])


def draw_crops(images: np.ndarray, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Random crops of random images, [count, 3, 128, 128] in -1..1, half of them mirrored."""
    crops = []
    for i in rng.integers(len(images), size=count):
        top, left = rng.integers(images.shape[1] - _CROP + 1, size=2)
        part = images[i, top : top + _CROP, left : left + _CROP]
        crops.append(part[:, ::-1] if rng.random() < 0.5 else part)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def losses(vae: AutoencoderTiny, pixels: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Error of pixels and of their gradients (edges stay sharp), and how far the latents are from unit scale."""
    latents = vae.encode(pixels).latents.float()
    deviation, mean = torch.std_mean(latents, (0, 2, 3))
    scale = ((deviation - 1).square() + mean.square()).mean()
    amount = _NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
    noise = torch.randn(latents.shape, generator=generator) * amount
    decoded = vae.decode(latents + noise.to(latents)).sample.float()
    error = decoded - pixels
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return {
        "loss": F.l1_loss(decoded, pixels) + edges + 2 * error.square().mean() + 0.1 * scale,
        "pixels": error.square().mean() / 4,
        "scale": scale,
    }


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderTiny, images: np.ndarray, device: str) -> None:
    """Make latents times `scaling_factor` of deviation 2 over the images.

    Twice the usual: at every strength the noise then leaves more of the photo, which so small a UNet could not guess
    (shifting the schedule by the scale of its input: Hoogeboom et al. 2023, Chen 2023).
    """
    latents = []
    for batch in np.array_split(images, len(images) // 16):
        pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents.append(vae.encode(pixels).latents)
    vae.register_to_config(scaling_factor=2 / torch.cat(latents).std().item())


def save_vae(vae: AutoencoderTiny, folder: Path) -> None:
    """Write the autoencoder in float16, without an entry of its configuration that diffusers warns of when it loads."""
    vae.to(dtype=torch.float16, device="cpu").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("block_out_channels", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def train_vae(
    photos: Annotated[Path, typer.Option(help="the folder that prepare_images wrote")] = Path("data/training"),
    out: Path = Path("data/training/vae"),
    steps: Annotated[int, typer.Option(min=1)] = 6000,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train the autoencoder, continuing what is in `out`, and save it there in diffusers' format."""
    torch.manual_seed(seed)
    images = np.load(photos / "photos.npy", mmap_mode="r")
    painted = out / "paintings.npy"
    if not painted.exists():
        out.mkdir(parents=True, exist_ok=True)
        np.save(painted, paint_some(images, 3000, seed))
    paintings = np.load(painted)
    vae = make_vae().to(device, memory_format=torch.channels_last)

    def loss_at(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, step))
        crops = torch.cat([draw_crops(images, batch // 2, rng), draw_crops(paintings, batch - batch // 2, rng)])
        generator = torch.Generator().manual_seed(step)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return losses(vae, crops.to(device, memory_format=torch.channels_last), generator)

    average = train(vae, loss_at, out, steps=steps, learning_rate=1e-3)
    set_scaling_factor(average, np.concatenate([images[:256], paintings[:256]]), device)
    save_vae(average, out)


if __name__ == "__main__":
    typer.run(train_vae)
