"""A Serve autoscaling policy: replicas from the denoise steps that a model's requests have left to run."""

from __future__ import annotations

import math
from typing import Any

METRIC = "queued_denoise_steps"  # reported by Img2ImgModel.record_autoscaling_stats


class QueuedSteps:
    """One replica for every `steps_per_replica` queued steps, within Serve's bounds.

    The number of requests is no measure of the work: their steps and strength differ.
    """

    def __init__(self, steps_per_replica: float = 200) -> None:
        if steps_per_replica <= 0:
            raise ValueError(f"steps_per_replica must be above 0, not {steps_per_replica}")
        self.steps_per_replica = steps_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The target number of replicas, and the policy's state, which is empty."""
        steps = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        # The steps of requests that are still queued at the handles are unknown; they need at least one replica.
        target = math.ceil(steps / self.steps_per_replica) or int(bool(context.total_num_requests))
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(least, min(most, target)), {}
