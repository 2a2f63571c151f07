"""The one-file job as a command, and what it works on."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from batch.run_image import main
from tests.support.images import file_of, gradient

app = typer.Typer()
app.command()(main)
NAME = "photo_in_the_style_of_picasso_str0.3_guide12_steps20_seed0_red"


def run_image(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def serve_config(folder: Path, port: int = 8000, **args: bool) -> Path:
    application = {"name": "img2img", "import_path": "tests.support.stand_in:build_app", "args": args}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"port": port}, "applications": [application]}))
    return path


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture in the folder that a bare name is looked up in, with its grandparent as the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data" / "input_images" / "photo.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of(gradient(), "png"))
    return path
