"""Files inside JSON: base64, whole or broken into lines, with or without `data:image/...;base64,` before it."""

from __future__ import annotations

import base64

from deployments.engine.errors import InvalidRequest

URLS = ("http:", "https:", "ftp:", "file:")


def decode_file(text: str, param: str) -> bytes:
    """The file's bytes. Raises InvalidRequest for a URL, since the server fetches none, and ValueError for other text.

    White space is ignored anywhere, as in the output of `base64 FILE` and of Python's `encodebytes`.
    """
    start = text[:100].lstrip().lower()
    if start.startswith(URLS):
        raise InvalidRequest(f"{param}: URLs are not fetched; send the image as base64 or as a data: URL", param)
    encoded = text.partition(",")[2] if start.startswith("data:") else text
    return base64.b64decode("".join(encoded.split()), validate=True)
