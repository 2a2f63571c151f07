"""Settings in images of other tools: what web UIs and their extensions write, in every encoding of EXIF comments."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from batch import show
from deployments.images.codec import encode_image
from deployments.images.metadata import parse_parameters, read_parameters
from tests.support.images import file_of, gradient, png_chunk

TEXT = "a fox é\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"
PLAIN_TEXT = "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"
SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768"
FIRST_LINES = f"a fox\nNegative prompt: blur\n{SETTINGS}"
FOX = {
    "Prompt": "a fox",
    "Negative prompt": "blur",
    "Steps": "20",
    "Sampler": "Euler a",
    "CFG scale": "7",
    "Seed": "5",
    "Size-1": "512",
    "Size-2": "768",
}
BYTE_ORDER_MARKS = {"utf-16-be": b"\xfe\xff", "utf-16-le": b"\xff\xfe", "utf-8": b"\xef\xbb\xbf"}
COMMENTS = {
    f"{code[:5].decode().strip(chr(0))}-{encoding}-{len(mark)}": code + mark + TEXT.encode(encoding)
    for code in (b"UNICODE\0", b"ASCII\0\0\0", bytes(8), b"")
    for encoding, bom in BYTE_ORDER_MARKS.items()
    for mark in (b"", bom)
} | {"latin-1": b"ASCII\0\0\0" + TEXT.encode("latin-1"), "padded": b"ASCII\0\0\0" + TEXT.encode() + b"\0\0"}


def exif_with(comment: bytes, order: str) -> bytes:
    """An EXIF block with only a UserComment, in the byte order "<" or ">"."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    root = struct.pack(f"{order}LHHHLLL", 8, 1, 0x8769, 4, 1, 26, 0)
    ifd = struct.pack(f"{order}HHHLLL", 1, 0x9286, 7, len(comment), 44, 0)
    return b"Exif\0\0" + mark + root + ifd + comment


def with_text(text: str) -> bytes:
    return encode_image(gradient(), "png", parameters=text)


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("comment", COMMENTS.values(), ids=COMMENTS)
def test_comment_reads_the_same_in_every_encoding(comment: bytes, order: str, format: str) -> None:
    assert read_parameters(file_of(gradient(), format, exif=exif_with(comment, order))) == TEXT


def test_comment_of_a_text_type_is_read_too() -> None:
    comment = b"ASCII\0\0\0" + PLAIN_TEXT.encode() + b"\0"
    block = exif_with(comment, ">").replace(b"\x92\x86\0\7", b"\x92\x86\0\2")
    assert read_parameters(file_of(gradient(), "jpeg", exif=block)) == PLAIN_TEXT


@pytest.mark.parametrize("comment", [b"ASCII\0\0\0Screenshot", b"\0" * 24, b"", b"ASCII\0\0\0", b"charset=Ascii fine"])
def test_comment_of_a_camera_is_no_settings(comment: bytes) -> None:
    assert read_parameters(file_of(gradient(), "jpeg", exif=exif_with(comment, "<"))) is None


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (f'{FIRST_LINES}, Note: "one\ntwo", Version: v1.5', {"Note": "one\ntwo", "Version": "v1.5"}),
        (
            f"{FIRST_LINES}, Model hash: abc\nTemplate: a {{fox|dog}}\nNegative Template: blur",
            {"Model hash": "abc", "Template": "a {fox|dog}", "Negative Template": "blur"},
        ),
        (f"{FIRST_LINES}\nTemplate: a fox, Seed: 9, Steps: 3\n", {"Template": "a fox"}),
        (f"{FIRST_LINES}\nTemplate:\nNegative Template: blur", {"Template": "", "Negative Template": "blur"}),
        (f'{FIRST_LINES}, Title: "unclosed, Version: v1.5', {"Title": '"unclosed', "Version": "v1.5"}),
        (f'{FIRST_LINES}, Note: "a\\\nb", Version: v1.5', {"Note": '"a\\\nb"', "Version": "v1.5"}),
        (FIRST_LINES.replace("\n", "\r\n"), {}),
        ("\ufeff" + FIRST_LINES, {}),
    ],
)
def test_settings_are_found_whatever_lines_values_and_extensions_add(text: str, more: dict[str, str]) -> None:
    found = {name: value.strip("\r") for name, value in parse_parameters(text).items()}
    assert found == FOX | more


def test_settings_in_a_prompt_are_not_taken_for_the_images_own() -> None:
    text = f"Steps: 3, Sampler: Euler, CFG scale: 1\nNegative prompt: Steps: 4, A b: 1, C d: 2\n{SETTINGS}"
    parsed = parse_parameters(text)
    assert (parsed["Steps"], parsed["Prompt"]) == ("20", "Steps: 3, Sampler: Euler, CFG scale: 1")


def test_half_a_character_in_a_quoted_value_is_replaced() -> None:
    assert parse_parameters(f'a\n{SETTINGS}, Note: "\\ud800, x"')["Note"] == "?, x"


def test_show_prints_the_settings_of_other_tools(tmp_path: Path) -> None:
    comment = b"UNICODE\0" + TEXT.encode("utf-16-le")
    (tmp_path / "le.webp").write_bytes(file_of(gradient(), "webp", exif=exif_with(comment, "<")))
    block = png_chunk(b"tEXt", b"parameters\0" + f'{FIRST_LINES}, Note: "one\ntwo", Version: v1.5'.encode())
    plain = file_of(gradient(), "png")
    at = plain.index(b"IDAT") - 4
    (tmp_path / "lines.png").write_bytes(plain[:at] + block + plain[at:])
    app = typer.Typer()
    app.command()(show.main)
    for name, prompt in (("le.webp", "a fox é"), ("lines.png", "a fox")):
        lines = [line.split(maxsplit=1) for line in CliRunner().invoke(app, [str(tmp_path / name)]).stdout.splitlines()]
        assert ["Prompt", prompt] in lines
        assert ["Steps", "20"] in lines
