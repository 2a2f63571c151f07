"""Where the log of our own modules goes."""

from __future__ import annotations

import logging

from ray.serve.context import _get_serve_request_context


def log_with_serve() -> None:
    """Send the log of our own modules where Serve's goes, with its request ids and in its encoding."""
    ours, serves = logging.getLogger("deployments"), logging.getLogger("ray.serve")
    ours.handlers, ours.propagate = serves.handlers, False
    ours.setLevel(serves.level)


def request_id() -> str:
    """Serve's id of the request that is being answered, the one in its logs and `x-request-id`; "" outside of one."""
    context_id: str = _get_serve_request_context().request_id
    return context_id
