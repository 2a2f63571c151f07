"""The API keys of a configuration, stored as SHA-256 digests, with each key's rate and concurrency limits.

A generated key has 256 random bits, so a plain hash protects it as well as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

import limits
import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.config import REPO_ROOT, KeyConfig, KeysConfig

ENTRIES = TypeAdapter(dict[str, KeyConfig])


@dataclass(frozen=True, slots=True)
class Key:
    """One caller: the SHA-256 `digest` of its key, its rate limit and its concurrent requests; None is unlimited."""

    name: str
    digest: bytes
    rate: limits.RateLimitItem | None
    concurrency: int | None


class Keys:
    """The keys of a configuration. Raises ValueError that names the faulty file or variable."""

    def __init__(self, config: KeysConfig) -> None:
        entries = {**_from_file(config), **_from_environment(config)}
        if not entries:
            raise ValueError("keys: no API keys configured; remove `keys` to disable authentication")
        self._keys = [_key(name, entry, config) for name, entry in entries.items()]

    def find(self, token: str) -> Key | None:
        """The key that `token` matches, compared in constant time."""
        digest = bytes.fromhex(sha256_of(token))
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def sha256_of(token: str) -> str:
    """The hexadecimal digest that configurations hold in place of a key."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


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
        raise ValueError(f"keys.file: {path}: not valid YAML") from None  # the error's own message would quote the file


def _from_environment(config: KeysConfig) -> dict[str, KeyConfig]:
    if config.env is None:
        return {}
    keys = [key.strip() for key in os.environ.get(config.env, "").split(",") if key.strip()]
    return {f"{config.env}[{number}]": KeyConfig(sha256=sha256_of(key)) for number, key in enumerate(keys)}
