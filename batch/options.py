"""The image options that both commands share, and how a bad value is reported: exit code 2, naming the option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from batch.cluster import AppNotStarted
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions

Prompt = Annotated[str | None, typer.Option(help="What the pictures should become.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What they should not become.")]
Model = Annotated[str | None, typer.Option(help="Model id, alias, or `auto` for a random choice by weight.")]
Strength = Annotated[float | None, typer.Option(help="From 0 (keeps the source) to 1 (ignores it).")]
GuidanceScale = Annotated[float | None, typer.Option(help="How closely to follow the prompt; 0 to 50.")]
Steps = Annotated[int | None, typer.Option("--num-inference-steps", help="int(steps * strength) are run.")]
Seed = Annotated[int | None, typer.Option(help="The random seed.")]
Sampler = Annotated[str | None, typer.Option(help="dpmpp_2m, dpmpp_2m_karras, euler, euler_ancestral, ddim, lcm.")]
MaxSide = Annotated[int | None, typer.Option(help="The longest side that the model sees, in pixels.")]
ServeConfig = Annotated[Path, typer.Option(help="The Serve configuration to start the app from.")]
AppName = Annotated[str, typer.Option(help="The Serve app to use if it runs already.")]

INPUT_FOLDER = Path("data/input_images")
OUTPUT_FOLDER = Path("data/output_images")
SERVE_CONFIG = Path("serve_config.yaml")
APP_NAME = "img2img"


def image_options(**values: Any) -> Img2ImgOptions:
    """The options as the API checks them. Raises typer.BadParameter for the first one it refuses."""
    try:
        return Img2ImgOptions(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(first["msg"], param_hint=option(str(first["loc"][0]))) from error


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report what the app's own limits refuse, and an app that does not start, as bad usage."""
    try:
        yield
    except InvalidRequest as error:
        raise typer.BadParameter(error.message, param_hint=option(error.param)) from error
    except AppNotStarted as error:
        raise typer.BadParameter(str(error), param_hint="--config") from error


def option(param: str) -> str:
    """A parameter's name on the command line: guidance_scale -> --guidance-scale."""
    return "--" + param.replace("_", "-")
