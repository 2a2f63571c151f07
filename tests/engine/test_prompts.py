"""Embeddings are those of diffusers' encode_prompt, and each prompt is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from deployments.engine.models import prompts as prompts_module
from deployments.engine.models.prompts import PromptEmbedding, PromptEncoder
from deployments.engine.models.stable_diffusion import StableDiffusion
from tests.support.reference import load_unet_family

PROMPTS = (
    "a cat in the corner",
    "",
    "🏰 castles, ghibli style 🦊🦊",
    "naïve café, “quoted”\nsecond line",
    " spaced  out ",
)
LONG = "castle " * 300 + "and then a unicorn"
Load = Callable[[str], StableDiffusion]


@pytest.fixture(scope="module")
def load(checkpoints: Callable[[str], Path]) -> Load:
    return cache(lambda kind: load_unet_family(checkpoints(kind)))


def encoder_of(family: StableDiffusion, *, reproducible: bool = False) -> PromptEncoder:
    """As the family sets it up, but for the UNet's keys and values: embeddings stay as they are."""
    encoder = family._prompt_encoder()
    encoder._project, encoder._batch_invariant = lambda hidden: hidden, reproducible
    return encoder


@torch.inference_mode()
def conditions_of(encoder: PromptEncoder, *prompts: str | None) -> list[PromptEmbedding]:
    return encoder.encode(list(prompts))


def encoded(encoder: PromptEncoder, *prompts: str | None) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    return [(condition.encoder_kv, condition.pooled) for condition in conditions_of(encoder, *prompts)]


@pytest.mark.parametrize("negative", [None, "", "blurry", LONG])
@pytest.mark.parametrize("prompt", [*PROMPTS, LONG])
@pytest.mark.parametrize("kind", ["sd15", "sd21"])
@torch.inference_mode()
def test_sd_embeddings_are_diffusers_own(kind: str, prompt: str, negative: str | None, load: Load) -> None:
    family = load(kind)
    expected, expected_negative = family.checkpoint.pipeline.encode_prompt(
        prompt, "cpu", 1, True, negative_prompt=negative
    )
    batch_invariant = encoder_of(family, reproducible=True)
    (hidden, pooled), (hidden_negative, _) = encoded(batch_invariant, prompt, negative)
    assert pooled is None
    assert torch.equal(hidden, expected[0])
    assert torch.equal(hidden_negative, expected_negative[0])


@pytest.mark.parametrize("negative", [None, "", "blurry", LONG])
@pytest.mark.parametrize("prompt", [*PROMPTS, LONG])
@torch.inference_mode()
def test_sdxl_embeddings_are_diffusers_own(prompt: str, negative: str | None, load: Load) -> None:
    family = load("sdxl")
    expected = family.checkpoint.pipeline.encode_prompt(prompt, device="cpu", negative_prompt=negative)
    (hidden, pooled), (hidden_negative, pooled_negative) = encoded(
        encoder_of(family, reproducible=True), prompt, negative
    )
    for ours, theirs in zip((hidden, hidden_negative, pooled, pooled_negative), expected, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs[0])


def test_missing_negative_prompt_of_sdxl_is_zeros_and_an_empty_one_is_not(load: Load) -> None:
    missing, empty = encoded(encoder_of(load("sdxl")), None, "")
    for ours, other in zip(missing, empty, strict=True):
        assert ours is not None
        assert other is not None
        assert not ours.any()
        assert other.any()


def test_missing_negative_prompt_of_sd_is_an_empty_one(load: Load) -> None:
    encoder = encoder_of(load("sd15"))
    (missing, _), (empty, _) = encoded(encoder, None, "")
    assert torch.equal(missing, empty)
    assert (encoder.hits, encoder.misses) == (1, 1)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_prompts_encoded_together_are_those_encoded_alone(kind: str, load: Load) -> None:
    together = encoded(encoder_of(load(kind)), *PROMPTS)
    for prompt, (hidden, _) in zip(PROMPTS, together, strict=True):
        ((alone, _),) = encoded(encoder_of(load(kind)), prompt)
        torch.testing.assert_close(hidden, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompt", [*PROMPTS, None])
def test_prompt_that_fits_is_not_called_truncated(prompt: str | None, load: Load) -> None:
    (condition,) = conditions_of(encoder_of(load("sdxl")), prompt)
    assert condition.truncated == ""


def test_prompt_is_truncated_from_the_first_token_that_does_not_fit(load: Load) -> None:
    encoder = encoder_of(load("sd15"))
    tokenizer = load("sd15").checkpoint.pipeline.tokenizer
    word = "cat"
    fits = (tokenizer.model_max_length - 2) // (len(tokenizer(word).input_ids) - 2)
    full = " ".join([word] * fits)
    conditions = conditions_of(encoder, full, full + " unicorn")
    assert [condition.truncated for condition in conditions] == ["", "unicorn"]
    assert torch.equal(conditions[0].encoder_kv, conditions[1].encoder_kv)


def test_cut_text_is_the_end_of_the_prompt(load: Load) -> None:
    (condition,) = conditions_of(encoder_of(load("sd15")), LONG)
    assert condition.truncated.endswith("castle and then a unicorn")
    assert LONG.endswith(condition.truncated)


def test_each_prompt_is_encoded_once(load: Load) -> None:
    encoder = encoder_of(load("sd15"))
    first = conditions_of(encoder, "a", "b", "a")
    again = conditions_of(encoder, "b", "a", "c")
    assert (encoder.hits, encoder.misses) == (3, 3)
    assert first[0] is first[2] is again[1]
    assert first[1] is again[0]


@pytest.mark.parametrize(("reproducible", "sizes"), [(False, [3]), (True, [1, 1, 1])])
def test_prompts_are_encoded_together_or_at_one_batch_shape(reproducible: bool, sizes: list[int], load: Load) -> None:
    seen: list[int] = []
    encoder = encoder_of(load("sd15"), reproducible=reproducible)
    handle = load("sd15").checkpoint.pipeline.text_encoder.register_forward_hook(
        lambda _, args, __: seen.append(len(args[0]))
    )
    encoded(encoder, "a", "b", "c")
    handle.remove()
    assert seen == sizes


@pytest.fixture
def room_for_four(load: Load, monkeypatch: pytest.MonkeyPatch) -> PromptEncoder:
    (condition,) = conditions_of(encoder_of(load("sd15")), "as large as any")
    monkeypatch.setattr(prompts_module, "MAX_CACHED_BYTES", 4 * condition.encoder_kv.nbytes)
    return encoder_of(load("sd15"))


def test_cache_keeps_the_prompts_used_last(room_for_four: PromptEncoder) -> None:
    encoded(room_for_four, "kept", "forgotten")
    encoded(room_for_four, "c", "d")
    encoded(room_for_four, "kept")
    encoded(room_for_four, "one too many")
    misses = room_for_four.misses
    encoded(room_for_four, "kept")
    assert room_for_four.misses == misses
    encoded(room_for_four, "forgotten")
    assert room_for_four.misses == misses + 1


def test_more_prompts_at_once_than_the_cache_holds_all_come_back(room_for_four: PromptEncoder, load: Load) -> None:
    prompts = [f"{i}" for i in range(14)]
    together = encoded(room_for_four, *prompts)
    assert len(together) == len(prompts)
    ((alone, _),) = encoded(encoder_of(load("sd15")), prompts[0])
    torch.testing.assert_close(together[0][0], alone, rtol=1e-5, atol=1e-5)
