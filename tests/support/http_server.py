"""An ASGI app behind a real uvicorn in a thread of the test, and requests to it byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from tests.support.service import eventually


@contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """The port of 127.0.0.1 that serves the app."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def answer_to(port: int, data: bytes, timeout_s: float = 2.0) -> bytes:
    """All that the server sends in reply to these bytes, until it closes the connection or is silent for too long."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        received = bytearray()
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except OSError:  # closed, or silent for too long
            pass
        return bytes(received)
