"""The training loop, and a whole small training that ends in a checkpoint others can load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionImg2ImgPipeline
from torch import nn

from tests.support.images import patches
from training.encode_pairs import encode_pairs
from training.loop import train
from training.train_unet import train_unet
from training.train_vae import draw_crops, losses, make_vae


def fit_line(out: Path, steps: int, until: int | None = None) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Linear(4, 1)

    def loss_at(step: int) -> dict[str, torch.Tensor]:
        if step == until:
            raise KeyboardInterrupt
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return {"loss": (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    return train(model, loss_at, out, steps=steps, learning_rate=0.02)


def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = fit_line(tmp_path / "whole", 500)
    with pytest.raises(KeyboardInterrupt):
        fit_line(tmp_path / "broken", 500, until=333)
    resumed = fit_line(tmp_path / "broken", 500)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_loop_learns_and_shows_its_progress(tmp_path: Path) -> None:
    fit_line(tmp_path, 500)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["loss"] < 0.05 < entries[0]["loss"]
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_the_autoencoder_learns() -> None:
    torch.manual_seed(0)
    images = np.stack([np.asarray(patches(seed)) for seed in range(4)])
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)
    history = []
    for step in range(12):
        crops = draw_crops(images, 2, np.random.default_rng(step))
        found = losses(vae, crops, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        found["loss"].backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        history.append(found["loss"].item())
    assert np.mean(history[-3:]) < 0.7 * np.mean(history[:3])


def test_training_ends_in_checkpoints_that_stock_diffusers_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    photos = [np.asarray(patches(seed)) for seed in range(5)]
    np.save(tmp_path / "photos.npy", np.stack(photos))
    make_vae().half().save_pretrained(tmp_path / "vae")
    encode_pairs(tmp_path, tmp_path / "vae", tmp_path / "latents", count=4)
    common = {"latents": tmp_path / "latents", "vae": tmp_path / "vae", "steps": 2, "batch": 1}
    train_unet("tiny-sd15", **common, out=tmp_path / "a")
    train_unet("tiny-sd21v", **common, out=tmp_path / "b", init_from=tmp_path / "a" / "checkpoint")
    for folder, prediction in ("a", "epsilon"), ("b", "v_prediction"):
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
            tmp_path / folder / "checkpoint", torch_dtype=torch.float32
        )
        assert pipeline.scheduler.config.prediction_type == prediction
        assert isinstance(pipeline.vae, AutoencoderTiny)
        result = pipeline("cartoon", patches(9), num_inference_steps=2, output_type="np")
        assert result.images.shape == (1, 256, 256, 3)
        size = sum(file.stat().st_size for file in (tmp_path / folder / "checkpoint").rglob("*"))
        assert size <= 14_000_000
