"""The playground: a page at `/` for `POST /v1/img2img`, with its files under `/playground/`."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent.parent / "playground"
POLICY = {
    "default-src": "'self'",
    "img-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "cache-control": "no-cache",  # cached, but revalidated: the files have no version in their names
    "content-security-policy": "; ".join(f"{name} {sources}" for name, sources in POLICY.items()),
    "referrer-policy": "no-referrer",  # the URL holds the prompt
    "x-content-type-options": "nosniff",
}
mimetypes.add_type("text/javascript", ".js")  # wrong in some systems' tables


class _Files(StaticFiles):
    """Static files with the page's headers."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def install_playground(api: FastAPI) -> None:
    """Serve the page and its files. The API's description leaves them out."""
    files = _Files(directory=FOLDER)
    api.mount("/playground", files, name="playground")

    @api.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)
