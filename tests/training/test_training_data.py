"""The training's images, prompts and states."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from tests.support.images import patches
from training.encode_pairs import PAINTINGS, style_of
from training.pipelines import BETAS
from training.prepare_images import PIXELS, crop, find_images, is_held_out, prepare
from training.prompts import SCRIPT_PROMPTS, STYLES, SYNONYMS, all_words, draw_prompt
from training.styles import STYLES as PAINTED_STYLES
from training.tokenizer import make_tokenizer
from training.train_unet import Pairs, img2img_states


def save_image(path: Path, seed: int, size: tuple[int, int] = (640, 500)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    patches(seed, size).save(path)
    return path


def test_copies_of_an_image_at_other_sizes_are_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "small.png", 1)
    large = save_image(tmp_path / "large.jpg", 1, (960, 750))
    other = save_image(tmp_path / "other.jpg", 2)
    save_image(tmp_path / "icon.png", 3, (200, 200))
    cut_out = patches(4, (200, 200)).convert("RGBA")
    cut_out.putpixel((0, 0), (0, 0, 0, 0))
    cut_out.save(tmp_path / "stamp.png")
    wide, cut_outs = find_images([tmp_path])
    assert set(wide) == {large, other}
    assert cut_outs == [tmp_path / "stamp.png"]


def test_crops_are_square_and_the_seed_decides_them() -> None:
    image = patches(5, (700, 500))
    first, again, other = (crop(image, random.Random(seed)) for seed in (1, 1, 2))
    assert first.size == (PIXELS, PIXELS)
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_held_out_crops_come_from_other_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        path = folder / f"{number}.png"
        shade = 200 if is_held_out(path) else 20  # so that the mean tells the two kinds apart
        noise = np.random.default_rng(number).integers(0, 56, (25, 30, 3)) + shade
        Image.fromarray(noise.astype(np.uint8)).resize((600, 500), Image.Resampling.NEAREST).save(path)
    prepare([folder], tmp_path, count=12)
    photos, held_out = (np.load(tmp_path / f"{name}.npy") for name in ("photos", "held_out"))
    assert photos.shape == (12, PIXELS, PIXELS, 3)
    assert photos.max() < 120 < held_out.min()


def test_each_style_is_painted_as_often_as_the_others() -> None:
    painted = [style_of(photo, painting) for photo in range(40) for painting in range(PAINTINGS)]
    assert {painted.count(style) for style in STYLES[1:]} == {10}


def test_prompts_know_the_styles_that_are_painted() -> None:
    assert STYLES == PAINTED_STYLES


@pytest.mark.parametrize("style", STYLES)
def test_prompts_of_a_style_name_it_and_no_other(style: str) -> None:
    rng = random.Random(style)
    named = 0
    for _ in range(100):
        prompt = draw_prompt(style, rng).lower()
        named += any(name in prompt for name in (style, *SYNONYMS[style]))
    assert named == 100 or (style == "photo" and named > 50)


def test_every_word_of_the_prompts_is_one_token() -> None:
    tokenizer = make_tokenizer()
    assert [word for word in all_words() if len(tokenizer.tokenize(word)) != 1] == []
    assert {"cat", "picasso", "ghibli", "castles"} <= set(all_words())
    assert all(tokenizer(prompt).input_ids for prompt in SCRIPT_PROMPTS)


def test_sampling_from_a_noised_photo_stays_on_the_states_of_training() -> None:
    """A sampler that is told e at every state must start at the noised photo and end at the painting."""
    alphas = DDIMScheduler(**BETAS).alphas_cumprod
    photos, targets = torch.randn(2, 64, 4, 8, 8).unbind()
    states, steps, noise, weights = img2img_states(photos, targets, alphas, torch.Generator().manual_seed(0))
    kappa = ((1 / weights - 1) / 2).sqrt().view(-1, 1, 1, 1)
    rest = noise - kappa * (photos - targets)  # what is left is noise
    assert abs(rest.std().item() - 1) < 0.05
    assert abs(rest.mean().item()) < 0.05
    # where e leads from the state: to the painting without noise, and to the noised photo at the start step
    a = alphas[steps].view(-1, 1, 1, 1)
    torch.testing.assert_close((states - (1 - a).sqrt() * noise) / a.sqrt(), targets, atol=2e-3, rtol=1e-3)
    start = kappa.square() / (1 + kappa.square())  # the schedule's alpha where alpha / sigma is kappa
    begun = start.sqrt() * targets + (1 - start).sqrt() * noise
    torch.testing.assert_close(begun, start.sqrt() * photos + (1 - start).sqrt() * rest, atol=1e-3, rtol=1e-3)
    assert 4 <= (kappa == 0).sum() <= 26  # a fifth of 64


def test_null_prompts_keep_the_photo_and_others_name_the_painting(tmp_path: Path) -> None:
    photos = np.arange(12, dtype=np.float16)[:, None, None, None] * np.ones((12, 4, 64, 64), np.float16)
    np.save(tmp_path / "photos.npy", photos)
    np.save(tmp_path / "fine.npy", np.repeat(photos, PAINTINGS, 0) + 100)
    drawn = Pairs(tmp_path, "fine").draw(300, 32, random.Random(0))
    kept = [bool((target == photo).all()) for photo, target, _, _ in zip(*drawn, strict=True)]
    assert drawn[0].shape == (300, 4, 32, 32)
    assert 15 <= drawn[2].count("") <= 50
    assert all(kept[i] for i, prompt in enumerate(drawn[2]) if not prompt)
    assert sum(kept) > drawn[2].count("")  # photo prompts keep it too
    assert sum(kept) < 100
