"""Gives the checkpoints of this machine hashes, as hub ids have them, so that one changed in place is seen."""

from __future__ import annotations

import hashlib
from pathlib import Path

from deployments.config import AppConfig

SUFFIXES = (".json", ".txt", ".safetensors")  # the files of a checkpoint that are loaded
SAMPLES = 64  # of a large file: it may have gigabytes, and training changes all parts of it
SAMPLE_BYTES = 256 * 1024
HASH_CHARS = 16


def with_checkpoint_hashes(config: AppConfig) -> AppConfig:
    """The configuration with a hash as the revision of each local checkpoint that has no revision and can be read."""
    models = {
        model_id: model.model_copy(update={"revision": model.revision or checkpoint_hash(Path(model.source))})
        for model_id, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def checkpoint_hash(checkpoint: Path) -> str | None:
    """16 hexadecimal digits over the files of a folder, or of one `.safetensors` file and the folder beside it.

    Small files are hashed as a whole, large ones by their size and 16 MiB spread over them. Modification times and
    the path to the folder are not hashed. None for a checkpoint that is not on this machine or cannot be read.
    """
    folder = checkpoint.with_suffix("") if checkpoint.suffix == ".safetensors" else checkpoint
    digest = hashlib.sha256()
    try:
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.suffix in SUFFIXES}
        if folder != checkpoint and checkpoint.is_file():
            files[""] = checkpoint
        for name, file in sorted(files.items()):
            size = file.stat().st_size
            digest.update(f"{name}\n{size}\n".encode())
            _add(digest, file, size)
    except OSError:
        return None
    return digest.hexdigest()[:HASH_CHARS] if files else None


def _add(digest: hashlib._Hash, path: Path, size: int) -> None:
    last = max(0, size - SAMPLE_BYTES)
    step = max(SAMPLE_BYTES, -(-last // (SAMPLES - 1)))
    with path.open("rb", buffering=0) as file:
        for start in [*range(0, last, step), last]:
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
