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
from deployments.schemas import Settings, encodable

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
STEPS = "Steps: "  # every web UI's settings start with it
MIN_PAIRS = 3  # settings with fewer pairs belong to the prompt
BYTE_ORDER_MARK = "\ufeff"
COMMENT_CODES = (USER_COMMENT_UNICODE, b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8))

_SETTINGS = re.compile(rf"^{STEPS}\d+,", re.MULTILINE)
# Pairs end at a comma or a line's end, but a quoted value runs to its closing quote. Only the last quote of a text can
# be without one, so a text is scanned at most twice: linear time.
_PAIR = re.compile(r'(?:^|[,\n])[^\S\n]*(\w[\w \-/]++):[^\S\n]*("(?:\\[\s\S]|[^\\"])*+"|[^,\n]*)')
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
    """`Prompt`, `Negative prompt` ("" if none) and the settings' pairs, with `Size` as `Size-1` and `Size-2`.

    The exact inverse of `format_parameters`. Also parses the text of web UIs: the settings are the last line that
    starts with "Steps: ", with all lines after it, or else the last line. Of equal names the first counts.
    """
    text = text.rstrip()
    prompts, settings = _split_settings(text)
    pairs: dict[str, str] = {}
    for name, value in _PAIR.findall(settings):
        pairs.setdefault(name, _unquote(value))
    if len(pairs) < MIN_PAIRS:
        prompts, pairs = text, {}
    prompt, negative = _split_prompts(prompts)
    if size := _SIZE.fullmatch(pairs.get("Size", "")):
        del pairs["Size"]
        pairs |= {"Size-1": size[1], "Size-2": size[2]}
    return {"Prompt": prompt, "Negative prompt": negative} | pairs


def read_parameters(data: bytes) -> str | None:
    """The text that `encode_image`, AUTOMATIC1111's web UI or another tool wrote into an image file, or None.

    Raises NotAnImage or ImageTooLarge.
    """
    image = open_image(data)
    if "parameters" in image.info:
        return str(image.info["parameters"])
    with suppress(Exception):  # a damaged EXIF block
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        return _comment_text(comment.encode("latin-1") if isinstance(comment, str) else comment)
    if image.format == "GIF" and "comment" in image.info:
        return str(image.info["comment"], errors="replace")
    return None


def _comment_text(comment: bytes) -> str | None:
    """The settings in a UserComment, whatever encoding they have: tools differ from what its first 8 bytes say.

    A comment that starts with `UNICODE` may also hold other text, in big-endian UTF-16.
    """
    body = comment[8:] if comment.startswith(COMMENT_CODES) else comment
    big_endian = body.decode("utf-16-be", errors="replace")
    texts = big_endian, body.decode("utf-16-le", errors="replace"), _decode_bytes(body)
    other = big_endian if comment.startswith(USER_COMMENT_UNICODE) else None
    found = next((text for text in texts if STEPS in text), other)
    return found and found.removeprefix(BYTE_ORDER_MARK).rstrip("\0")


def _decode_bytes(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _split_settings(text: str) -> tuple[str, str]:
    """The prompts and the settings."""
    starts = [match.start() for match in _SETTINGS.finditer(text)] or [text.rfind("\n") + 1]
    return text[: starts[-1]].removesuffix("\n"), text[starts[-1] :]


def _split_prompts(text: str) -> tuple[str, str]:
    prompt, found, negative = f"\n{text}".partition(f"\n{NEGATIVE}")
    return prompt.removeprefix("\n").removeprefix(BYTE_ORDER_MARK), negative.removeprefix(" ") if found else ""


def _quote(value: str) -> str:
    plain = value and value == value.strip() and not re.search(r'[,:\n"]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquote(value: str) -> str:
    """The text of a quoted value; any other value without the spaces around it. No half characters."""
    if len(value) < 2 or not value.startswith('"'):
        return value.strip()
    try:
        return encodable(str(json.loads(value, strict=False)))
    except ValueError:
        return value


@cache
def _version() -> str:
    try:
        return version("img2img-serve")
    except PackageNotFoundError:  # run from a checkout without installation
        return "unknown"
