"""A real S3 server, moto's, which can fail requests the way servers do."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow.fs import S3FileSystem
from werkzeug.serving import make_server

BUCKET = "images"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class S3Server:
    """`requests` lists the method and path of each. A share of them, `failure_rate`, is answered 503.

    Nothing may be written to paths that hold `denied`, where it is set: 403.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.failure_rate = 0.0
        self.denied: str | None = None
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    def uri(self, path: str = "") -> str:
        """The URI of `path` in the bucket, in a folder of its own where `path` is left out."""
        where = path or uuid.uuid4().hex
        return f"s3://testing:testing@{BUCKET}/{where}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def file_system(self) -> S3FileSystem:
        """The server without our own code in between. Paths start with the bucket."""
        return S3FileSystem(
            access_key="testing",
            secret_key="testing",
            region="us-east-1",
            scheme="http",
            endpoint_override=self.endpoint,
            allow_bucket_creation=True,
        )

    def start(self) -> None:
        self._thread.start()
        self.file_system().create_dir(BUCKET)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            fails = self._random.random() < self.failure_rate
        denied = self.denied is not None and self.denied in path and method in ("PUT", "POST")
        if not (fails or denied):
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, body = ("403 Forbidden", DENIED) if denied else ("503 Slow Down", BUSY)
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server on a free port, with the empty bucket BUCKET."""
    server = S3Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()
