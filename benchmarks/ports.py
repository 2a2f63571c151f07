"""Free ports of this machine, for the demo, the benchmarks and the tests."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1", preferred: int = 0) -> int:
    """The preferred port if it is free, else any free port. Raises OSError if the host is not this machine."""
    with socket.socket() as probe:
        if preferred:  # whose last connections may still linger
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, preferred))
        except OSError:
            probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
