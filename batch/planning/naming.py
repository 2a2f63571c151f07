"""The file names of results. Imports no Ray and reads no disk.

A name is `{stem}_{prompt slug}_str{strength}_guide{guidance}_steps{steps}_seed{seed}_{model}{ext}`. Where
another result could have the same name, six hexadecimal digits of a digest over everything that decides the
result follow the model. Where these six digits agree as well, more digits follow.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath

import numpy as np

from deployments.config import Defaults
from deployments.images.codec import Format
from deployments.schemas import Settings

FORMATS: dict[str, Format] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".gif": "gif",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".avif": "avif",
}
# Images of formats that are not read.
UNREADABLE = {".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".ico", ".tga", ".exr", ".hdr"} | {
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw")  # of cameras
}
SLUG_CHARS = 30
SLUG_SOURCE_CHARS = 4000  # of the prompt; bounds the time, since normalization sorts runs of marks in quadratic time
NAME_BYTES = 255  # the limit of common file systems
STEM_BYTES = 32  # of a name, kept for the stem beside a long slug
PLAIN_NUMBER_CHARS = 40
DIGITS = 6  # of the digest
PLAIN_PROMPT = re.compile(r"[a-z0-9]+( [a-z0-9]+)*")
HIDDEN = ("negative_prompt", "sampler", "max_side")


def output_name(
    source: PurePosixPath,
    settings: Settings,
    extension: str,
    *,
    defaults: Defaults | None = None,
    mask: str | None = None,
    digits: int = 0,
) -> str:
    """The file name, without a folder, of the result of `source`, a path relative to the input folder.

    The digest is added when
    - the slug is not the whole prompt, which holds only for short prompts of lower-case ASCII words and single spaces;
    - the stem was cut to keep the name within 255 bytes;
    - `extension` has another format than the source, so that a.jpg and a.png differ as PNG;
    - negative prompt, sampler or max_side differs from `defaults` (the model's; None means the app's);
    - there are `loras`, or a `mask`, a path relative to the input folder;
    - `digits` requests a digest of that length, because another result has the name without it.
    """
    visible = f"_str{shortest(settings.strength)}_guide{shortest(settings.guidance_scale)}"
    visible += f"_steps{settings.num_inference_steps}_seed{settings.seed}_{settings.model}"
    num_digits = digits or DIGITS
    room = NAME_BYTES - len((visible + "_" + extension).encode()) - num_digits
    slug = _cut(prompt_slug(settings.prompt), room - STEM_BYTES)
    stem = _cut(source.stem, room - len(f"_{slug}".encode()))
    is_ambiguous = (
        digits > 0
        or slug.replace("_", " ") != settings.prompt
        or not PLAIN_PROMPT.fullmatch(settings.prompt)
        or stem != source.stem
        or mask is not None
        or FORMATS.get(extension.lower()) != FORMATS.get(source.suffix.lower())
        or settings.loras is not None
        or any(getattr(settings, name) != getattr(defaults or Defaults(), name) for name in HIDDEN)
    )
    digest = "_" + _digest(source, settings, extension, mask)[:num_digits] if is_ambiguous else ""
    return f"{stem}{f'_{slug}' if slug else ''}{visible}{digest}{extension}"


def prompt_slug(prompt: str) -> str:
    """At most 30 characters of the prompt: letters and digits of any script, with `_` between words."""
    words = re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFC", prompt[:SLUG_SOURCE_CHARS]))
    return re.sub(r"[\s_-]+", "_", words).strip("_")[:SLUG_CHARS].rstrip("_")


def shortest(number: float) -> str:
    """The shortest decimal that reads back as the same number: 0.65 -> "0.65", 12.0 -> "12".

    A decimal that would be too long for a file name has an exponent: 1e-300.
    """
    plain = np.format_float_positional(number, trim="-")
    return plain if len(plain) <= PLAIN_NUMBER_CHARS else repr(number)


def folded(path: PurePosixPath) -> str:
    """The path with case and Unicode form folded: equal for two paths that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).upper().casefold())


def is_image(path: PurePosixPath) -> bool:
    """Whether the extension, in any case, belongs to an image format of FORMATS."""
    return path.suffix.lower() in FORMATS


def is_unreadable_image(path: PurePosixPath) -> bool:
    """Whether the extension, in any case, belongs to an image format that is not read."""
    return path.suffix.lower() in UNREADABLE


def valid_name(path: PurePosixPath) -> bool:
    """Whether the path is valid UTF-8, as the results table requires."""
    return str(path).encode(errors="replace").decode() == str(path)


def _digest(source: PurePosixPath, settings: Settings, extension: str, mask: str | None) -> str:
    everything = f"{source}\n{extension}\n{settings.model_dump_json(exclude_defaults=True)}" + (
        f"\n{mask}" if mask else ""
    )
    return hashlib.sha256("\n".join(everything).encode()).hexdigest()


def _cut(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")
