"""Runs a command of this package as a program."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import typer

from deployments.schemas import encodable


def run(main: Callable[..., None]) -> None:
    """Run the command `main` on the program's arguments.

    Characters that the encoding of the output lacks are printed escaped, as names of files hold any: `\\u6771`.
    """
    arguments = sys.argv[1:]
    sys.argv[1:] = map(encodable, arguments)  # Ray writes them down as UTF-8
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    program = typer.Typer(add_completion=False)
    program.command()(main)
    program(arguments)
