"""How many replicas the queued steps are worth."""

from __future__ import annotations

from typing import Any, cast

import pytest
from ray.serve.config import AutoscalingContext

from deployments.autoscaling import METRIC, QueuedSteps


def wanted(steps: dict[str, float] | None, *, requests: int = 1, least: int = 1, most: int = 10) -> int:
    """What the policy asks for with 100 steps a replica, given each replica's queued steps.

    Serve hands over numbers and metrics as functions, which its context calls when the policy reads them.
    """
    context = AutoscalingContext(
        deployment_id=cast(Any, None),
        deployment_name="sd15",
        app_name="img2img",
        current_num_replicas=1,
        target_num_replicas=1,
        running_replicas=[],
        total_num_requests=lambda: requests,
        total_queued_requests=lambda: 0,
        aggregated_metrics=cast(Any, lambda: None if steps is None else {METRIC: steps}),
        raw_metrics=None,
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=most,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )
    replicas, state = QueuedSteps(steps_per_replica=100)(context)
    assert state == {}
    return replicas


@pytest.mark.parametrize(("steps", "replicas"), [(1, 1), (100, 1), (101, 2), (300, 3), (301, 4)])
def test_there_is_a_replica_for_every_so_many_queued_steps(steps: int, replicas: int) -> None:
    assert wanted({"one": steps}) == replicas


def test_steps_of_all_replicas_count() -> None:
    assert wanted({"one": 150, "two": 150, "three": 0}) == 3


@pytest.mark.parametrize(("steps", "replicas"), [(0, 2), (10_000, 4)])
def test_serves_bounds_are_kept(steps: int, replicas: int) -> None:
    assert wanted({"one": steps}, least=2, most=4) == replicas


@pytest.mark.parametrize("steps", [None, {}, {"one": 0}])
@pytest.mark.parametrize(("requests", "replicas"), [(0, 0), (1, 1), (50, 1)])
def test_model_scaled_to_nothing_wakes_for_the_first_request(
    steps: dict[str, float] | None, requests: int, replicas: int
) -> None:
    assert wanted(steps, requests=requests, least=0) == replicas


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_for_a_replica_are_refused(steps: float) -> None:
    with pytest.raises(ValueError, match=f"steps_per_replica must be above 0, not {steps}"):
        QueuedSteps(steps_per_replica=steps)
