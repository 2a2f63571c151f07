"""The errors that the engine raises.

EngineError
    CheckpointError     the checkpoint cannot be served: an unknown pipeline class, a missing part, a pickle
    InvalidRequest      the caller's fault; `param` names the field
    RequestAborted      the caller went away, or the engine is shutting down
    NumericalError      the model produced NaN or infinite values for this request
    OutOfMemory         the device or the host ran out of memory; fewer rows may fit
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""


class CheckpointError(EngineError):
    """The checkpoint cannot be served, and the message says why."""


class InvalidRequest(EngineError):
    """The request asks for something that this model cannot do. `param` is the offending field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class RequestAborted(EngineError):
    """The request was aborted before its image was done."""


class NumericalError(EngineError):
    """The model produced NaN or infinite values for this request, so there is no image to return."""


class OutOfMemory(EngineError):
    """The device or the host ran out of memory. Fewer rows at a time may fit."""
