"""Trains the UNet and text encoder of an embedded checkpoint on pairs of photo and painting.

Run it as `python -m training.train_unet tiny-sd15` (predicts noise, paints finely) or `tiny-sd21v` (predicts v, paints
boldly). Plain denoising teaches so small a network mush, so it is shown the states that img2img visits: sampling
starts from the noised photo p and is to end at the painting z. With a start step s, kappa = alpha_s / sigma_s and

    e = n + kappa (p - z),    x_t = alpha_t z + sigma_t e,    t <= s,

x_s is the noised photo itself, and a deterministic sampler that predicts e stays on these states down to z.
"""

import random
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderTiny, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from training.encode_pairs import PAINTINGS, style_of
from training.loop import train
from training.pipelines import sd15_scheduler, sd21_scheduler
from training.prompts import STYLES, draw_prompt
from training.tiny import make_text_encoder
from training.tokenizer import make_tokenizer
from training.train_vae import save_vae

MODELS = {"tiny-sd15": "fine", "tiny-sd21v": "bold"}  # and the manner it paints in
_NULL, _PHOTO, _PLAIN = 0.1, 0.06, 0.2  # shares of null prompts, of prompts for a photo, of plain denoising
_FIRST, _LAST = 150, 950  # start steps
_LARGE, _SMALL = 64, 32  # latents; the first part of the training sees small crops, four times as many
_SMALL_SHARE = 0.6


class Networks(nn.Module):
    """The two networks that are trained, and the tokenizer and schedule that they are trained for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        v_prediction = name == "tiny-sd21v"
        self.tokenizer = make_tokenizer()
        self.scheduler = sd21_scheduler() if v_prediction else sd15_scheduler()
        self.text_encoder = make_text_encoder(
            self.tokenizer, hidden_act="gelu" if v_prediction else "quick_gelu", hidden_size=64
        )
        self.unet = UNet2DConditionModel(
            sample_size=_LARGE,
            in_channels=8,
            out_channels=8,
            block_out_channels=(48, 80, 112, 128),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            use_linear_projection=v_prediction,
        ).to(memory_format=torch.channels_last)
        # reads the style off the embeddings: its loss makes the text encoder tell styles apart early
        self.style_probe = nn.Linear(64, len(STYLES))

    def forward(
        self, latents: torch.Tensor, steps: torch.Tensor, prompts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The UNet's prediction, like `latents`, and the logits of the prompts' styles, [b, 13]."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        embeddings = self.text_encoder(tokens.to(latents.device)).last_hidden_state
        return self.unet(latents, steps, embeddings).sample, self.style_probe(embeddings.mean(1))


class Pairs:
    """Draws training samples from the latents that `encode_pairs` wrote."""

    def __init__(self, folder: Path, manner: str) -> None:
        self.photos = np.load(folder / "photos.npy", mmap_mode="r")
        self.paintings = np.load(folder / f"{manner}.npy", mmap_mode="r")

    def draw(
        self, count: int, size: int, rng: random.Random
    ) -> tuple[torch.Tensor, torch.Tensor, list[str], list[str]]:
        """Photos and targets, [count, 8, size, size] each, prompts and styles; null and photo prompts keep the photo.

        Smaller parts are cut at multiples of eight latents, what three downsamplings see as one position.
        """
        photos, targets, prompts, styles = [], [], [], []
        for _ in range(count):
            number, painting = rng.randrange(len(self.photos)), rng.randrange(PAINTINGS)
            top, left = (8 * rng.randint(0, (_LARGE - size) // 8) for _ in range(2))
            part = np.s_[:, top : top + size, left : left + size]
            photo, target = self.photos[number][part], self.paintings[PAINTINGS * number + painting][part]
            style, role = style_of(number, painting), rng.random()
            if role < _NULL + _PHOTO:
                target, style = photo, "photo"
            photos.append(photo)
            targets.append(target)
            prompts.append("" if role < _NULL else draw_prompt(style, rng))
            styles.append(style)
        return torch.from_numpy(np.stack(photos)).float(), torch.from_numpy(np.stack(targets)).float(), prompts, styles


def img2img_states(
    photos: torch.Tensor, targets: torch.Tensor, alphas: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw the states of the module's docstring: x_t [b, c, h, w], steps t [b], e [b, c, h, w], loss weights [b].

    `alphas` is the schedule's cumulative product, [1000]. A fifth has kappa = 0, which is plain denoising.
    """
    count = len(photos)
    start = torch.randint(_FIRST, _LAST + 1, (count,), generator=generator)
    plain = torch.rand(count, generator=generator) < _PLAIN
    last = torch.where(plain, len(alphas) - 1, start)
    steps = (torch.rand(count, generator=generator) * (last + 1)).long()
    kappa = torch.where(plain, 0.0, (alphas[start] / (1 - alphas[start])).sqrt())
    column = (-1, 1, 1, 1)
    noise = torch.randn(photos.shape, generator=generator) + kappa.view(column) * (photos - targets)
    states = alphas[steps].sqrt().view(column) * targets + (1 - alphas[steps]).sqrt().view(column) * noise
    return states, steps, noise, 1 / (1 + 2 * kappa.square())  # about 1 / E[e^2]: latents have variance 4


def start_from(networks: Networks, folder: Path) -> None:
    """Take the weights of a checkpoint that differs only in what it predicts and in how projections are laid out."""
    for name, module in ("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel):
        network = getattr(networks, name)
        shapes = network.state_dict()
        weights = module.from_pretrained(folder / name, torch_dtype=torch.float32).state_dict()
        network.load_state_dict({key: value.reshape(shapes[key].shape) for key, value in weights.items()})


def save(networks: Networks, vae: AutoencoderTiny, folder: Path) -> None:
    """Write a whole checkpoint in diffusers' format, float16."""
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet.to(memory_format=torch.contiguous_format),
        scheduler=networks.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to("cpu", torch.float16).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")
    save_vae(vae, folder / "vae")


def train_unet(
    name: Annotated[str, typer.Argument(help="tiny-sd15 or tiny-sd21v")],
    latents: Annotated[Path, typer.Option(help="what encode_pairs wrote")] = Path("data/training/latents"),
    vae: Annotated[Path, typer.Option(help="what train_vae wrote")] = Path("data/training/vae"),
    out: Annotated[Path | None, typer.Option(help="progress and result; default data/training/NAME")] = None,
    init_from: Annotated[Path | None, typer.Option(help="a trained checkpoint to start from")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 9000,
    batch: Annotated[int, typer.Option(min=1, help="of 256 px; four times as many of 128 px")] = 8,
    learning_rate: float = 8e-4,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a checkpoint, continuing what is in `out`, and write it to `out/checkpoint`."""
    if name not in MODELS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(MODELS)}")
    torch.manual_seed(seed)
    out = out or Path("data/training") / name
    networks = Networks(name)
    if init_from is not None:
        start_from(networks, init_from)
    networks.to(device)
    pairs = Pairs(latents, MODELS[name])
    alphas = networks.scheduler.alphas_cumprod

    def loss_at(step: int) -> dict[str, torch.Tensor]:
        rng, generator = random.Random(f"{seed} {step}"), torch.Generator().manual_seed(step)
        small = step < _SMALL_SHARE * steps
        photos, targets, prompts, styles = pairs.draw(*((4 * batch, _SMALL) if small else (batch, _LARGE)), rng)
        states, times, noise, weights = img2img_states(photos, targets, alphas, generator)
        if networks.scheduler.config.prediction_type == "v_prediction":
            wanted = networks.scheduler.get_velocity(targets, noise, times)
        else:
            wanted = noise
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            prediction, named = networks(
                states.to(device, memory_format=torch.channels_last), times.to(device), prompts
            )
        error = F.mse_loss(prediction.float(), wanted.to(device), reduction="none").mean((1, 2, 3))
        painting = (weights.to(device) * error).mean()
        naming = F.cross_entropy(named.float(), torch.tensor([STYLES.index(style) for style in styles], device=device))
        return {"loss": painting + 0.1 * naming, "painting": painting, "naming": naming}

    average = train(networks, loss_at, out, steps=steps, learning_rate=learning_rate)
    save(average, AutoencoderTiny.from_pretrained(vae), out / "checkpoint")


if __name__ == "__main__":
    typer.run(train_unet)
