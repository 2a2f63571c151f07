"""The commands of `batch` as programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from batch import run_folder, show
from batch.program import run
from batch.record.results import Result
from tests.support.images import file_of, gradient

Program = Callable[[], None]


def printed(program: Program, arguments: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the program prints to a console with this encoding."""
    output = io.BytesIO()
    console = io.TextIOWrapper(output, encoding=encoding, write_through=True)
    with monkeypatch.context() as context, suppress(SystemExit):
        context.setattr(sys, "stdout", console)
        context.setattr(sys, "argv", ["program", *arguments])
        program()
    return output.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", r"\u6771\u4eac \xe9"), ("latin-1", r"\u6771\u4eac é"), ("utf-8", "東京 é")],
)
def test_folder_job_escapes_what_the_console_lacks(
    tmp_path: Path, encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "東京 é"
    folder.mkdir()
    (folder / "a.png").write_bytes(file_of(gradient(), "png"))
    (tmp_path / "serve.yaml").write_text("applications: []")  # so the job ends there
    arguments = ["--input", str(folder), "--output", str(tmp_path / "out"), "--config", str(tmp_path / "serve.yaml")]
    assert f"1 images in {tmp_path}/{expected}" in printed(run_folder.command, arguments, encoding, monkeypatch)


def test_show_escapes_what_the_console_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = tmp_path / "a.bmp"
    image.write_bytes(file_of(gradient(), "bmp"))
    line = Result(source="a.bmp", output=image.name, prompt="東京 é").model_dump_json()
    (tmp_path / "results.jsonl").write_text(line, encoding="utf-8")
    assert r"Prompt  \u6771\u4eac é" in printed(show.cli, [str(image)], "latin-1", monkeypatch)


def test_arguments_that_are_not_unicode_reach_the_command_and_no_other_program(monkeypatch: pytest.MonkeyPatch):
    """Linux's names are bytes. Ray takes the arguments for text, and stops at what it cannot encode."""
    seen: list[str] = []

    def main(path: str) -> None:
        seen.extend([path, *sys.argv])

    printed(lambda: run(main), ["i\udcff"], "utf-8", monkeypatch)
    assert seen == ["i\udcff", "program", "i?"]
