"""The API's own description: /openapi.json, and the pages /docs and /redoc, whose files come from this server."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from deployments.config import KeysConfig

FILES = "/docs-files"
# The pages that a browser may ask a key for: any name, and the key as password.
PAGES = ("/docs", "/redoc", "/openapi.json", f"{FILES}/*")
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "basic": {"type": "http", "scheme": "basic", "description": "An API key as password, with any name."},
}


def install_documentation(api: FastAPI, keys: KeysConfig | None) -> None:
    """Serve the pages, and complete the description. Called after all routes are there."""
    files_of_pages = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    api.mount(FILES, files_of_pages, name="docs-files")
    _add_page(api, "/docs", _swagger_ui)
    _add_page(api, "/redoc", _redoc)
    document = api.openapi()  # FastAPI caches this document
    _document_only_our_errors(document)
    if keys is not None:
        _document_the_keys(document, keys)


def _add_page(api: FastAPI, path: str, page: Callable[[str, str], HTMLResponse]) -> None:
    @api.get(path, include_in_schema=False)
    async def get_page(request: Request) -> HTMLResponse:
        return page(api.title, request.scope.get("root_path", "").rstrip("/"))


def _swagger_ui(title: str, root: str) -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=title,
        swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}/playground/icon.svg",
    )


def _redoc(title: str, root: str) -> HTMLResponse:
    return get_redoc_html(
        openapi_url=f"{root}/openapi.json",
        title=title,
        redoc_js_url=f"{root}{FILES}/redoc.standalone.js",
        redoc_favicon_url=f"{root}/playground/icon.svg",
        with_google_fonts=False,
    )


def _document_only_our_errors(document: dict[str, Any]) -> None:
    """Remove the 422 that FastAPI documents for every route with fields: here an invalid field is a 400."""
    for methods in document["paths"].values():
        for route in methods.values():
            route["responses"].pop("422", None)


def _document_the_keys(document: dict[str, Any], keys: KeysConfig) -> None:
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    document["security"] = [{name: []} for name in SECURITY_SCHEMES]
    for path, methods in document["paths"].items():
        if any(fnmatchcase(path, public) for public in keys.public):
            for route in methods.values():
                route["security"] = []
