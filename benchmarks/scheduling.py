"""What the order of requests does to their latencies: the engine's own scheduler on a machine that only counts.

python -m benchmarks.scheduling > benchmarks/results/scheduling.json

Poisson arrivals at 0.8 of what a loop makes that takes one request after the other. Slowdown is latency over the time
that the same request takes alone. Steps take `fixed + rows * each`: with `fixed` 0, batching gains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import git_commit
from deployments.engine import scheduler as scheduling
from deployments.engine.request import Img2ImgRequest
from deployments.engine.scheduler import Scheduler
from deployments.engine.state import DenoiseState

REQUESTS, LOAD, MAX_ROWS = 6000, 0.8, 8
PATIENCES = (0, 2, 8, 16, 32)  # 0: due as they come
MACHINES: dict[str, Callable[[int], float]] = {
    "batching gains nothing": lambda rows: 0.1 * rows,
    "8 rows make 1.9 times the images of 2": lambda rows: 0.06 + 0.05 * rows,
}
PIXELS = np.zeros((8, 8, 3), np.uint8)


class Arrival(NamedTuple):
    """A request: when it comes, its denoise steps and whether it is guided."""

    second: float
    steps: int
    guided: bool

    def alone_s(self, step_s: Callable[[int], float]) -> float:
        """Seconds that it takes by itself."""
        return self.steps * step_s(1 + self.guided)


def main() -> None:
    """Print the slowdowns as JSON."""
    figures = {
        machine: {f"patience {patience}": _slowdowns(step_s, patience) for patience in PATIENCES}
        for machine, step_s in MACHINES.items()
    }
    used = scheduling.PATIENCE
    print(json.dumps({"commit": git_commit(), "requests": REQUESTS, "load": LOAD, "used": used, **figures}, indent=1))


def _slowdowns(step_s: Callable[[int], float], patience: int) -> dict[str, float]:
    used, scheduling.PATIENCE = scheduling.PATIENCE, patience
    try:
        values = simulate(arrivals(step_s), step_s)
    finally:
        scheduling.PATIENCE = used
    named = {"mean": fmean(values), "p50": np.percentile(values, 50), "p99": np.percentile(values, 99)}
    return {name: round(float(value), 2) for name, value in {**named, "worst": max(values)}.items()}


def arrivals(step_s: Callable[[int], float]) -> list[Arrival]:
    """Requests of 4 to 30 steps, strength 0.3 to 1, two thirds of them guided."""
    random, second = Random(0), 0.0
    drawn = [
        Arrival(0, max(1, int(random.randint(4, 30) * random.uniform(0.3, 1))), random.random() < 2 / 3)
        for _ in range(REQUESTS)
    ]
    rate = LOAD / fmean(arrival.alone_s(step_s) for arrival in drawn)
    timed = []
    for arrival in drawn:
        second += random.expovariate(rate)
        timed.append(arrival._replace(second=second))
    return timed


def simulate(todo: list[Arrival], step_s: Callable[[int], float]) -> list[float]:
    """The slowdown of every request."""
    scheduler, now, coming, slowdowns = Scheduler(MAX_ROWS), 0.0, list(enumerate(todo)), []
    while coming or scheduler.has_work:
        if not scheduler.has_work:
            now = max(now, coming[0][1].second)
        while coming and coming[0][1].second <= now:
            scheduler.add([_state(*coming.pop(0))])
        scheduler.admit()
        batch = scheduler.select()
        took_s = step_s(sum(state.rows for state in batch))
        now += took_s
        for state in batch:
            state.step_index += 1
        scheduler.charge(batch, took_s)
        for state in scheduler.pop_denoised():
            arrival = todo[int(state.request.request_id)]
            slowdowns.append((now - arrival.second) / arrival.alone_s(step_s))
    return slowdowns


def _state(number: int, arrival: Arrival) -> DenoiseState:
    table: Any = range(arrival.steps)  # the scheduler asks for its length alone
    return DenoiseState(Img2ImgRequest(str(number), PIXELS, ""), table, (8, 8), arrival.guided)


if __name__ == "__main__":
    main()
