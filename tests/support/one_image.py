"""The one-file job as a command, and its configuration."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml
from typer.testing import CliRunner, Result

from batch.run_image import main

app = typer.Typer()
app.command()(main)
NAME = "photo_in_the_style_of_picasso_str0.3_guide12_steps20_seed0_red"


def run_image(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def serve_config(folder: Path, port: int = 8000, **args: bool | str) -> Path:
    application = {"name": "img2img", "import_path": "tests.support.stand_in:build_app", "args": args}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"port": port}, "applications": [application]}))
    return path
