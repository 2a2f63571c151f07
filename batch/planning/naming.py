"""What a result's file is called. Knows no Ray and touches no disk.

A name is `{stem}_{prompt slug}_str{strength}_guide{guidance}_steps{steps}_seed{seed}_{model}{ext}`. Where
another result could have the same name, six hexadecimal digits of a digest over everything that decides the
result follow the model; where even those agree, more of them.
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
    ".png": "png",
    ".webp": "webp",
    ".gif": "gif",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
SLUG_CHARS = 30
NAME_BYTES = 255  # the most that common file systems take
STEM_BYTES = 32  # what a long slug leaves of them to the stem
DIGITS = 6  # of the digest
SHOWN_IN_FULL = re.compile(r"[a-z0-9]+( [a-z0-9]+)*")
NOT_SHOWN = ("negative_prompt", "sampler", "max_side")


def output_name(
    source: PurePosixPath,
    settings: Settings,
    extension: str,
    *,
    defaults: Defaults | None = None,
    mask: str | None = None,
    digits: int = 0,
) -> str:
    """The file name (no folder) of `source`, a path relative to the input folder, made with `settings`.

    The digest is added when
    - the slug does not spell out the prompt: anything but lower-case ASCII words with single spaces, or cut;
    - the stem had to be cut to keep the name within 255 bytes;
    - `extension` is another format than the source's, so that a.jpg and a.png stay apart as PNG;
    - negative prompt, sampler or max_side is not that of `defaults` (the model's; None stands for the app's own);
    - there are `loras`, or a `mask`, a path relative to the input folder;
    - `digits` asks for one of that length: the one thing that a caller can see only by looking at the other names too.
    """
    shown = f"_str{shortest(settings.strength)}_guide{shortest(settings.guidance_scale)}"
    shown += f"_steps{settings.num_inference_steps}_seed{settings.seed}_{settings.model}"
    num_digits = digits or DIGITS
    room = NAME_BYTES - len((shown + "_" + extension).encode()) - num_digits
    slug = _cut(prompt_slug(settings.prompt), room - STEM_BYTES)
    stem = _cut(source.stem, room - len(f"_{slug}".encode()))
    vague = (
        digits > 0
        or slug.replace("_", " ") != settings.prompt
        or not SHOWN_IN_FULL.fullmatch(settings.prompt)
        or stem != source.stem
        or mask is not None
        or FORMATS.get(extension.lower()) != FORMATS.get(source.suffix.lower())
        or settings.loras is not None
        or any(getattr(settings, name) != getattr(defaults or Defaults(), name) for name in NOT_SHOWN)
    )
    digest = "_" + _digest(source, settings, extension, mask)[:num_digits] if vague else ""
    return f"{stem}{f'_{slug}' if slug else ''}{shown}{digest}{extension}"


def prompt_slug(prompt: str) -> str:
    """At most 30 characters of the prompt: letters and digits of any script, words joined by `_`."""
    words = re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFC", prompt))
    return re.sub(r"[\s_-]+", "_", words).strip("_")[:SLUG_CHARS].rstrip("_")


def shortest(number: float) -> str:
    """The shortest decimal that reads back as the same number: 0.65 -> "0.65", 12.0 -> "12"."""
    return np.format_float_positional(number, trim="-")


def folded(path: PurePosixPath) -> str:
    """Equal for two paths that a file system blind to case or Unicode form takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).upper().casefold())


def is_image(path: PurePosixPath) -> bool:
    """Whether the extension, in any case, is one of a picture format we read and write."""
    return path.suffix.lower() in FORMATS


def valid_name(path: PurePosixPath) -> bool:
    """Whether the path is valid UTF-8, without which no results table could name it."""
    return str(path).encode(errors="replace").decode() == str(path)


def _digest(source: PurePosixPath, settings: Settings, extension: str, mask: str | None) -> str:
    everything = f"{source}\n{extension}\n{settings.model_dump_json(exclude_defaults=True)}" + (
        f"\n{mask}" if mask else ""
    )
    return hashlib.sha256("\n".join(everything).encode()).hexdigest()


def _cut(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")
