"""How many replicas a model wants, from the denoise steps its requests still have to run, for Serve's autoscaler."""

from __future__ import annotations

import math
from typing import Any

METRIC = "queued_denoise_steps"  # what Img2ImgModel.record_autoscaling_stats reports


class QueuedSteps:
    """A Serve autoscaling policy: one replica for every `steps_per_replica` queued steps, within Serve's bounds.

    Requests count differently by their steps and strength, so a number of requests would not tell the work.
    """

    def __init__(self, steps_per_replica: float = 200) -> None:
        if steps_per_replica <= 0:
            raise ValueError(f"steps_per_replica must be above 0, not {steps_per_replica}")
        self.steps_per_replica = steps_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas and the state to hand to the next call (none)."""
        steps = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        # Requests still queued at the handles have no known step count yet: each wants at least a replica's attention.
        wanted = math.ceil(steps / self.steps_per_replica) or int(bool(context.total_num_requests))
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(least, min(most, wanted)), {}
