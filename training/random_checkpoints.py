"""Writes a placeholder for the embedded checkpoint that is not trained yet: random weights, but a picture goes through.

Run it as `python -m training.random_checkpoints`.
"""

from pathlib import Path

import torch
import typer

from training.pipelines import UNET_V, make_pipeline, sd21_scheduler
from training.tokenizer import make_tokenizer

MODELS = Path(__file__).parents[1] / "data" / "models"
_PIXELS = 256


def write_placeholder(folder: Path = MODELS / "tiny-sd21v") -> None:
    """Write `tiny-sd21v` (v-prediction) to `folder`: 256 px, float16, under 3 MB."""
    gentle = {"noise_gain": 0.8, "keeps_smooth": True, "roughness": 0.4, "sample_size": _PIXELS // 8}
    vae = {"sample_size": _PIXELS, "roughness": 0.01, "log_variance": -4.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = make_pipeline(sd21_scheduler(), UNET_V | gentle, vae, hidden_act="gelu")
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    make_tokenizer(folder / "tokenizer")


if __name__ == "__main__":
    typer.run(write_placeholder)
