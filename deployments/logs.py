"""Where the log of our own modules goes."""

from __future__ import annotations

import logging


def log_with_serve() -> None:
    """Send the log of our own modules where Serve's goes, with its request ids and in its encoding."""
    ours, serves = logging.getLogger("deployments"), logging.getLogger("ray.serve")
    ours.handlers, ours.propagate = serves.handlers, False
    ours.setLevel(serves.level)
