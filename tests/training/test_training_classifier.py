"""The classifier learns to name styles, the same way every time, and says when it was trained for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.embedded.painter import open_photo
from deployments.engine.request import Pixels
from tests.support.reference import smooth_image
from training.classifier import StyleClassifier, accuracies, degrade, train
from training.styles import STYLES

INPUT_IMAGES = Path(__file__).parents[2] / "data" / "input_images"


@pytest.fixture(scope="module")
def photos() -> Pixels:
    return np.stack([open_photo(file, 160, 160) for file in sorted(INPUT_IMAGES.rglob("*.jpg"))])


@pytest.fixture(scope="module")
def classifier(photos: Pixels) -> StyleClassifier:
    return train(np.tile(photos[:-1], (7, 1, 1, 1)), steps=80)


@pytest.mark.slow
def test_a_short_training_names_styles_of_an_unseen_photo_far_better_than_chance(
    classifier: StyleClassifier, photos: Pixels
) -> None:
    shares = accuracies(classifier, photos[-1:])
    assert set(shares) == set(STYLES)
    assert np.mean(list(shares.values())) > 4 / len(STYLES)


@pytest.mark.slow
def test_confidences_are_probabilities_and_the_highest_is_the_name(classifier: StyleClassifier, photos: Pixels) -> None:
    confidences = classifier.confidences(photos)
    assert confidences.shape == (len(photos), len(STYLES))
    np.testing.assert_allclose(confidences.sum(1), 1, rtol=1e-5)
    assert classifier.names(photos) == [STYLES[row.argmax()] for row in confidences]


@pytest.mark.slow
def test_answer_does_not_depend_on_what_else_is_asked(classifier: StyleClassifier, photos: Pixels) -> None:
    together = classifier.confidences(photos)
    alone = np.concatenate([classifier.confidences([photo]) for photo in photos])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_same_seed_gives_the_same_weights_and_another_seed_others(photos: Pixels) -> None:
    first, again, other = (train(photos, steps=1, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])


@pytest.mark.slow
def test_saved_classifier_comes_back_with_the_same_answers(
    classifier: StyleClassifier, photos: Pixels, tmp_path: Path
) -> None:
    classifier.save(tmp_path / "new" / "style.safetensors")
    loaded = StyleClassifier.load(tmp_path / "new" / "style.safetensors")
    np.testing.assert_array_equal(loaded.confidences(photos), classifier.confidences(photos))


@pytest.mark.parametrize("metadata", [None, {"styles": "photo, fresco"}])
def test_weights_for_other_styles_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file(StyleClassifier().state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"old\.safetensors: trained for the styles .*, not photo, pencil sketch"):
        StyleClassifier.load(tmp_path / "old.safetensors")


def test_degraded_image_is_another_image_of_the_same_thing() -> None:
    source = smooth_image(1, 96, 64)
    for seed in range(20):
        degraded = degrade(source, np.random.default_rng(seed))
        assert (degraded.shape, degraded.dtype) == (source.shape, source.dtype)
        assert not np.array_equal(degraded, source)
        assert np.corrcoef(degraded.ravel(), source.ravel())[0, 1] > 0.9
