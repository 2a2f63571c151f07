"""Generates an API key.

    python -m deployments.keys alice

prints a new key, which is stored nowhere, and the entry for the file named by `keys: {file: ...}`.
"""

from __future__ import annotations

import secrets
from typing import Annotated

import typer
import yaml

from deployments.auth.key_store import sha256_of

PREFIX = "img2img-"


def main(name: Annotated[str, typer.Argument(help="The caller's name in logs and metrics.")]) -> None:
    """Generate a key; print it and its entry for the keys file."""
    key = PREFIX + secrets.token_urlsafe(32)
    entry = {name: {"sha256": sha256_of(key)}}
    typer.echo(f"the key, shown only now:  {key}")
    typer.echo(f"the line for keys.file:   {yaml.safe_dump(entry, default_flow_style=None, width=200).strip()}")


if __name__ == "__main__":
    typer.run(main)
