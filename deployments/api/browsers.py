"""ASGI middleware against what other web pages make a browser send: foreign host names, and cross-site writes."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.errors import FOREIGN_HOST, FOREIGN_ORIGIN, reply

READ_ONLY = ("GET", "HEAD", "OPTIONS")
PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")  # nobody can register a name under these
EXPOSED = ("x-request-id", "x-model", "x-fallback-for", "x-seed", "x-steps", "x-prompt-truncated", "retry-after")
HOST = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::\d*)?")


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app for pages of these origins, too: replies to preflights, and headers that make all replies readable."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=EXPOSED,
    )


class HostGate:
    """Refuses requests to host names that a stranger may own, which DNS rebinding needs to read the replies.

    Addresses, names without a dot, names under PRIVATE_DOMAINS, this machine's names and the `trusted` ones, where `*`
    matches anything, are accepted.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = [name.lower() for name in trusted]
        self._own: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for host in Headers(scope=scope).getlist("host"):
                if not await self._accepts(name_of(host)):
                    message = f"the host name {host!r} is not one of trusted_hosts in the server's configuration"
                    await reply(FOREIGN_HOST, message)(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _accepts(self, name: str) -> bool:
        if is_address(name) or "." not in name or name.endswith(PRIVATE_DOMAINS):
            return True
        if any(fnmatchcase(name, trusted) for trusted in self._trusted):
            return True
        if not self._own:  # asked for late and in a thread, since a name server may take seconds
            self._own = {socket.gethostname().lower(), (await asyncio.to_thread(socket.getfqdn)).lower()}
        return name in self._own


class OriginGate:
    """Refuses requests that change something and come from a page of another origin than this server or `allowed`.

    Browsers tell so by Sec-Fetch-Site, or, on plain HTTP, by Origin. Requests of other programs have neither.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in READ_ONLY and not self._accepts(Headers(scope=scope)):
            message = "the request comes from a page of another site, whose origin is not one of cors_origins"
            await reply(FOREIGN_ORIGIN, message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _accepts(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if "*" in self._allowed or origin in self._allowed:
            return True
        if (site := headers.get("sec-fetch-site")) is not None:
            return site in ("same-origin", "none")
        # A page cannot set X-Forwarded-Host without a preflight, and proxies that replace Host do.
        return origin is None or _authority(origin) in (headers.get("host"), headers.get("x-forwarded-host"))


def name_of(host: str) -> str:
    """The name or address in a Host header, without port, brackets and final dots; `host` itself if malformed."""
    found = HOST.fullmatch(host.lower())
    return host if found is None else found["address"] or found["name"].rstrip(".")


def is_address(name: str) -> bool:
    """Whether no DNS name can look like this: an IPv6 address, or a last label of digits, as in 127.0.0.1."""
    if name.rpartition(".")[2].isdecimal():
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _authority(origin: str) -> str:
    return urlsplit(origin).netloc if "://" in origin else ""
