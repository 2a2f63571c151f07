"""The service's errors, and where the others are defined.

EngineError             engine/errors.py
    InvalidRequest      engine/errors.py
        UnknownModel
ImageError              images/codec.py
ModelNotReady
    StateNotReady
QueueFull
"""

from __future__ import annotations

from ray.exceptions import RayTaskError

from deployments.engine.errors import InvalidRequest


class UnknownModel(InvalidRequest):
    """No model has the requested name."""


class ModelNotReady(Exception):
    """The model is starting, waiting for resources, or failed to load, as `reason` says."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model!r} is not ready: {self.reason}"


class StateNotReady(ModelNotReady):
    """The state that web UI clients share is starting, or cannot start, as `reason` says."""

    def __str__(self) -> str:
        return f"the state that web UI clients share is not ready: {self.reason}"


class QueueFull(Exception):
    """The model's queue is full. `retry_after_s` is Serve's advice, None without one."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


def cause_of(error: BaseException) -> BaseException:
    """The exception that a replica raised, without Ray's wrapper; any other exception itself."""
    return error.cause if isinstance(error, RayTaskError) else error
