"""Runs a command of the benchmarks in this process."""

from __future__ import annotations

from collections.abc import Callable

import typer
from typer.testing import CliRunner, Result


def run(main: Callable[..., None], *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def text_of(result: Result) -> str:
    """The output without the frame and the line breaks of an error message."""
    return " ".join(result.output.replace("│", " ").split())
