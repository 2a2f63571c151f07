"""API keys: who may call, kept as SHA-256 only, and how much each caller may ask for.

    python -m deployments.keys alice

prints a new key, which is not kept anywhere, and the line that lets it in for the file of `keys: {file: ...}`.
Keys have 256 random bits, so that a plain hash is as good at rest as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from typing import Annotated

import limits
import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.config import REPO_ROOT, KeyConfig, KeysConfig

PREFIX = "img2img-"
ENTRIES = TypeAdapter(dict[str, KeyConfig])


@dataclass(frozen=True, slots=True)
class Key:
    """One caller: `digest` is the key's SHA-256; `rate` requests per time and `concurrency` at once, None is any."""

    name: str
    digest: bytes
    rate: limits.RateLimitItem | None
    concurrency: int | None


class Keys:
    """The callers of a configuration. Raises ValueError naming what is wrong with its file or variable."""

    def __init__(self, config: KeysConfig) -> None:
        entries = {**_from_file(config), **_from_environment(config)}
        if not entries:
            raise ValueError("keys: there is none, and so nobody could call; leave `keys` out to let everybody in")
        self._keys = [_key(name, entry, config) for name, entry in entries.items()]

    def find(self, token: str) -> Key | None:
        """Whose key it is. Takes the same time whichever it is, and whether it is one."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _key(name: str, entry: KeyConfig, config: KeysConfig) -> Key:
    rate = entry.rate or config.rate
    concurrency = entry.concurrency or config.concurrency
    return Key(name, bytes.fromhex(entry.sha256), limits.parse(rate) if rate else None, concurrency)


def _from_file(config: KeysConfig) -> dict[str, KeyConfig]:
    if config.file is None:
        return {}
    path = REPO_ROOT / config.file
    try:
        return ENTRIES.validate_python(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise ValueError(f"keys.file: {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ValueError(f"keys.file: {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except yaml.YAMLError:
        raise ValueError(f"keys.file: {path}: it is not YAML") from None  # whose message would quote the file


def _from_environment(config: KeysConfig) -> dict[str, KeyConfig]:
    if config.env is None:
        return {}
    keys = [key.strip() for key in os.environ.get(config.env, "").split(",") if key.strip()]
    return {
        f"{config.env}[{number}]": KeyConfig(sha256=hashlib.sha256(key.encode()).hexdigest())
        for number, key in enumerate(keys)
    }


def main(name: Annotated[str, typer.Argument(help="Whose key it is; logs and metrics call the caller so.")]) -> None:
    """Make a key: print it, and the line that lets it in."""
    key = PREFIX + secrets.token_urlsafe(32)
    entry = {name: {"sha256": hashlib.sha256(key.encode()).hexdigest()}}
    typer.echo(f"the key, shown only now:  {key}")
    typer.echo(f"the line for keys.file:   {yaml.safe_dump(entry, default_flow_style=None, width=200).strip()}")


if __name__ == "__main__":
    typer.run(main)
