"""No parser of callers' text takes more than linear time: 64 times the text costs at most 100 times the time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import PurePosixPath

import pytest

from batch.planning.manifest import read_rows
from batch.planning.naming import folded, prompt_slug
from deployments.api.webui.mapping import find_model, find_sampler, split_loras
from deployments.config import AppConfig
from deployments.engine.errors import InvalidRequest
from deployments.images.metadata import parse_parameters, read_parameters
from deployments.schemas import parse_loras
from tests.support.images import exif, file_of, gradient

CONFIG = AppConfig(models={"sd15": {"checkpoint": "a"}})
LEAST_S = 0.0005  # below it, the clock and the machine's other work count for more than the parser
MARKS = ["\u0315\u0300", "\u0316\u0315\u0300"]  # out of the canonical order, which normalization sorts
PIECES = {
    "infotext": [
        "aa",
        "aa:",
        ',aa:"\\"',
        "aa: , ",
        "\nNegative prompt:",
        "\nSteps: 1,",
        ',aa:"\\\n',
        "\n,aa: ",
        '"',
        "\n",
    ],
    "comment": ["a", "\0", "\0S\0t", "\xff", "Steps: "],
    "lora": ["<lora:", "<lora:a:1>", "<lora:a>", "<", "a>", "<lora:a"],
    "loras": ["a,", "a:1,", ",", ":", "1", "a:1:"],
    "model": ["a ", "[", "[a", "a []", " [", "]"],
    "sampler": ["a ", " karras", "euler a "],
    "slug": ["a", " ", "-_", "!", *MARKS],
    "output": ["a", "/", "a/", "../", *MARKS],
    "csv": ["a", ",", '"', "a\n", "\t", "image,", "image\n", '"a"\n'],
    "jsonl": ["[", '{"image":', '{"image":"a"}\n', "\n", '{"a":1,', "1"],
    "list": ["a", "/", "a\n", "\n", "a/../\n"],
}


def _comment(text: str) -> None:
    comment = b"UNICODE\0" + text.encode("latin-1")
    read_parameters(file_of(gradient(8, 8), "webp", exif=exif(user_comment=comment)))


def _output(text: str) -> None:
    rows = read_rows("a.csv", f'image,output\na.png,"{text}.png"'.encode(), ["/in/"])
    folded(PurePosixPath(rows[0].output or ""))


PARSERS: dict[str, Callable[[str], object]] = {
    "infotext": parse_parameters,
    "comment": _comment,
    "lora": split_loras,
    "loras": parse_loras,
    "model": lambda text: find_model(f"a{text}b", CONFIG, "model"),
    "sampler": lambda text: find_sampler(text, text),
    "slug": prompt_slug,
    "output": _output,
    "csv": lambda text: read_rows("a.csv", text.encode(), ["/in/"]),
    "jsonl": lambda text: read_rows("a.jsonl", text.encode(), ["/in/"]),
    "list": lambda text: read_rows("a.txt", text.encode(), ["/in/"]),
}


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """It visits everything that the tests before have left, as often as a parser makes many objects."""
    gc.disable()
    yield
    gc.enable()


def seconds(parse: Callable[[str], object], text: str, times: int = 1) -> float:
    """The processor time of one call."""
    started = time.process_time()
    for _ in range(times):
        with suppress(InvalidRequest, ValueError):
            parse(text)
    return (time.process_time() - started) / times


@pytest.mark.parametrize(("parser", "piece"), [(name, piece) for name, pieces in PIECES.items() for piece in pieces])
def test_long_text_costs_no_more_than_its_length(parser: str, piece: str) -> None:
    short, long = ((piece * size)[:size] for size in (1024, 65536))
    before = max(seconds(PARSERS[parser], short, times=64), LEAST_S)  # as long as the long text should take
    assert any(seconds(PARSERS[parser], long) < 100 * before for _ in range(3))


def test_deeply_nested_line_of_a_table_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="line 1: not JSON"):
        read_rows("a.jsonl", b"[" * 100_000, ["/in/"])
