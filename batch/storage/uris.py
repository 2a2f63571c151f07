"""Credentials in the URIs of storages: escaped for a parser, and kept out of messages."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote

BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# KEY:SECRET@ and KEY@, also where somebody forgot the @. A secret of AWS may hold `/`.
S3_CREDENTIALS = re.compile(r"(?<=^s3://)([^/@:?]*)(:(?P<secret>(?!\d*(/[^@]*)?$)[^@]*)(@|$)|@)", re.IGNORECASE)
# USER:PASSWORD@ and USER@, but no HOST:PORT with an @ somewhere behind it.
CREDENTIALS = re.compile(r"(?<=://)([^/@:?\[]*)(:(?P<secret>(?!\d+[/?])[^@]*))?@")
SENSITIVE = re.compile(r"key|secret|password|token|sas|sig", re.IGNORECASE)  # names in a query
HIDDEN = "***"


def escape_secret(uri: str) -> str:
    """The URI with the secret of S3 percent-encoded, as far as it is not."""
    found = S3_CREDENTIALS.search(uri)
    if found is None or found["secret"] is None:
        return uri
    return uri[: found.start("secret")] + _quoted(found["secret"]) + uri[found.end("secret") :]


def public_address(uri: str) -> str:
    """The URI without credentials and query."""
    found = _credentials(uri)
    bare = uri if found is None else uri[: found.start()] + uri[found.end() :]
    scheme, separator, path = bare.partition("?")[0].partition("://")
    return scheme + separator + path.rstrip("/")


def without_secrets(message: str, uri: str) -> str:
    """A message about the storage at `uri`, with `***` in place of its secrets, escaped or not."""
    for secret in _secrets(uri):
        for written in {secret, unquote(secret), _quoted(secret), quote(secret, safe="")}:
            message = message.replace(written, HIDDEN)
    return message


def _credentials(uri: str) -> re.Match[str] | None:
    pattern = S3_CREDENTIALS if uri.lower().startswith("s3://") else CREDENTIALS
    return pattern.search(uri)


def _secrets(uri: str) -> list[str]:
    found = _credentials(uri)
    secrets = [found["secret"]] if found else []
    secrets += [value for name, value in parse_qsl(uri.partition("?")[2]) if SENSITIVE.search(name)]
    return [secret for secret in secrets if secret]


def _quoted(text: str) -> str:
    return quote(BARE_PERCENT.sub("%25", text), safe="%")
