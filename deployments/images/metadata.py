"""An image's settings as text in the format of AUTOMATIC1111's web UI: written, parsed, and read from files."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from PIL import ExifTags

from deployments.engine.request import Sampler
from deployments.images.codec import USER_COMMENT_UNICODE, open_image
from deployments.schemas import Settings

# "Sampler" and "Schedule type". Automatic means Karras for DPM++ 2M in the web UI, so the plain one is Uniform.
SAMPLER_NAMES: dict[Sampler, tuple[str, str]] = {
    "dpmpp_2m": ("DPM++ 2M", "Uniform"),
    "dpmpp_2m_karras": ("DPM++ 2M", "Karras"),
    "euler": ("Euler", "Automatic"),
    "euler_ancestral": ("Euler a", "Automatic"),
    "ddim": ("DDIM", "Automatic"),
    "lcm": ("LCM", "Automatic"),
}
NEGATIVE = "Negative prompt:"
MIN_PAIRS = 3  # a last line with fewer pairs belongs to the prompt

# A quoted value runs to its closing quote or the line's end and is never retried: linear time on any text.
_PAIR = re.compile(r'(?:^|,)\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*+"?|[^,]*)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def format_parameters(settings: Settings, size: tuple[int, int]) -> str:
    """The prompt, the negative prompt if not empty, and a line of `Name: value` pairs.

    `size` is the (width, height) of the model's input. Ambiguous prompts, for example one with a line that starts with
    "Negative prompt:", are repeated in quotes in the last line. The web UI and `parse_parameters` prefer that line.
    """
    sampler, schedule = SAMPLER_NAMES[settings.sampler]
    prompt, negative = settings.prompt, settings.negative_prompt or ""
    pairs = {
        "Steps": settings.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": settings.model,
        "Denoising strength": settings.strength,
        **({"Loras": settings.loras} if settings.loras else {}),
        "Version": f"img2img-serve {_version()}",
    }
    lines = [prompt] if prompt else []
    if negative:
        lines.append(f"{NEGATIVE} {negative}")
    if _split_prompts("\n".join(lines)) != (prompt, negative):
        pairs |= {"Prompt": prompt, "Negative prompt": negative}
    return "\n".join([*lines, ", ".join(f"{name}: {_quote(str(value))}" for name, value in pairs.items())])


def parse_parameters(text: str) -> dict[str, str]:
    """`Prompt`, `Negative prompt` ("" if none) and the last line's pairs, with `Size` as `Size-1` and `Size-2`.

    The exact inverse of `format_parameters`; also parses the web UI's own text.
    """
    *lines, last = text.rstrip().split("\n")
    pairs = {name: _unquote(value) for name, value in _PAIR.findall(last)}
    if len(pairs) < MIN_PAIRS:
        lines, pairs = [*lines, last], {}
    prompt, negative = _split_prompts("\n".join(lines))
    if size := _SIZE.fullmatch(pairs.get("Size", "")):
        del pairs["Size"]
        pairs |= {"Size-1": size[1], "Size-2": size[2]}
    return {"Prompt": prompt, "Negative prompt": negative} | pairs


def read_parameters(data: bytes) -> str | None:
    """The text that `encode_image` or AUTOMATIC1111's web UI wrote into an image file, or None.

    Raises NotAnImage or ImageTooLarge.
    """
    image = open_image(data)
    if "parameters" in image.info:
        return str(image.info["parameters"])
    with suppress(Exception):  # a damaged EXIF block
        comment: bytes = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        if comment.startswith(USER_COMMENT_UNICODE):
            return comment.removeprefix(USER_COMMENT_UNICODE).decode("utf-16-be", errors="replace")
    if image.format == "GIF" and "comment" in image.info:
        return str(image.info["comment"], errors="replace")
    return None


def _split_prompts(text: str) -> tuple[str, str]:
    prompt, found, negative = f"\n{text}".partition(f"\n{NEGATIVE}")
    return prompt.removeprefix("\n"), negative.removeprefix(" ") if found else ""


def _quote(value: str) -> str:
    plain = value and value == value.strip() and not re.search(r'[,:\n"]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquote(value: str) -> str:
    if len(value) < 2 or not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


@cache
def _version() -> str:
    try:
        return version("img2img-serve")
    except PackageNotFoundError:  # run from a checkout without installation
        return "unknown"
