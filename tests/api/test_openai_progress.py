"""When OpenAI's stream sends its partial images."""

from __future__ import annotations

import pytest

from deployments.api.openai.routes import partial_images_due
from deployments.engine.request import Progress


@pytest.mark.parametrize(
    ("partial_images", "num_steps", "sent_after"),
    [(3, 8, [2, 4, 6]), (1, 20, [10]), (2, 9, [3, 6]), (3, 2, [1, 1, 2]), (0, 8, [])],
)
def test_partial_images_are_spread_evenly_over_the_steps(
    partial_images: int, num_steps: int, sent_after: list[int]
) -> None:
    due = [partial_images_due(Progress(0, step, num_steps), partial_images) for step in range(num_steps + 1)]
    assert [step for step in range(1, num_steps + 1) for _ in range(due[step] - due[step - 1])] == sent_after
