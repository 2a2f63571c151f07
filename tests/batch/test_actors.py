"""How many Ray Data actors a folder job has."""

from __future__ import annotations

import pytest

from batch.running.pipeline import actors_for


@pytest.mark.parametrize(
    ("num_images", "max_running", "num_cpus", "expected"),
    [(1000, 16, 2, 1), (1000, 17, 2, 2), (1000, 512, 2, 2), (1000, 512, 64, 32), (20, 512, 64, 2), (5, 1, 0, 1)],
)
def test_actors_are_capped_by_images_and_cpus(num_images: int, max_running: int, num_cpus: int, expected: int):
    assert actors_for(num_images, max_running, num_cpus) == expected
