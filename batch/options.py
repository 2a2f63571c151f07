"""The options of both commands. An invalid value is reported by its option's name, with exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from batch.cluster import AppNotStarted
from deployments.allowed_values import allowed
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions, encodable

SEVERAL = "; comma-separated values make every combination."

Prompt = Annotated[str | None, typer.Option(help="The prompt: what the images should become.")]
NegativePrompt = Annotated[str | None, typer.Option(help="The negative prompt: what to avoid.")]
Model = Annotated[str | None, typer.Option(help="Model id, alias, or `auto` for a random choice by weight.")]
Strength = Annotated[float | None, typer.Option(help="The amount of change: 0 (keep the source) to 1 (ignore it).")]
GuidanceScale = Annotated[float | None, typer.Option(help="The weight of the prompt: 0 to 50.")]
Steps = Annotated[int | None, typer.Option("--num-inference-steps", help="Steps, of which int(steps * strength) run.")]
Seed = Annotated[int | None, typer.Option(help="The random seed.")]
Sampler = Annotated[str | None, typer.Option(help=f"{allowed('sampler').capitalize()}.")]
MaxSide = Annotated[int | None, typer.Option(help="The longest side that the model sees, in pixels.")]
Loras = Annotated[str | None, typer.Option(help="LoRAs of the model and their weights: `name:0.8,other:0.5`.")]
Models = Annotated[str | None, typer.Option("--model", help=f"Model id, alias, or `auto`{SEVERAL}")]
Strengths = Annotated[str | None, typer.Option("--strength", help=f"Change, 0 (keep the source) to 1{SEVERAL}")]
GuidanceScales = Annotated[str | None, typer.Option("--guidance-scale", help=f"Weight of the prompt: 0 to 50{SEVERAL}")]
StepCounts = Annotated[str | None, typer.Option("--num-inference-steps", help=f"Number of steps{SEVERAL}")]
SeedList = Annotated[str | None, typer.Option("--seed", help=f"The random seed{SEVERAL}")]
Seeds = Annotated[int, typer.Option(help="Number of seeds of each image: its own and those that follow.")]
Samplers = Annotated[str | None, typer.Option("--sampler", help=f"Sampler, as for run_image{SEVERAL}")]
MaxSides = Annotated[str | None, typer.Option("--max-side", help=f"The longest side that the model sees{SEVERAL}")]
Input = Annotated[str, typer.Option(help="A folder, a glob, a list (.txt) or a table (.csv, .jsonl, .parquet).")]
Output = Annotated[str, typer.Option(help="The folder for results, results.jsonl and report.html.")]
Manifest = Annotated[str | None, typer.Option(help="A list or table whose paths are relative to --input.")]
PromptsFile = Annotated[str | None, typer.Option(help="A file of prompts to draw from, one per line.")]
OutputFormat = Annotated[str | None, typer.Option(help="One of png, jpeg, webp. Default: the format of each source.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Number of images that run at a time.")]
Recursive = Annotated[bool, typer.Option(help="Include sub-folders, also for the results.")]
Strip = Annotated[bool, typer.Option("--strip", help="Drop the source's EXIF: camera, date, place and author.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make all images again, also those of another input.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Retry the images that failed in earlier runs.")]
Verify = Annotated[bool, typer.Option("--verify", help="Decode finished results, and compare sources by content.")]
Deadline = Annotated[float | None, typer.Option(min=0, help="Minutes after which no image is started.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the work and its expected duration, and write nothing.")]
ServeConfig = Annotated[Path, typer.Option(help="The Serve configuration that starts the app.")]
AppName = Annotated[str, typer.Option(help="The name of the Serve app, which is used if it is running.")]

INPUT_FOLDER = Path("data/input_images")
OUTPUT_FOLDER = Path("data/output_images")
SERVE_CONFIG = Path("serve_config.yaml")
APP_NAME = "img2img"


def image_options(**values: Any) -> Img2ImgOptions:
    """The options, checked as by the API. Raises typer.BadParameter for the first invalid one."""
    try:
        return Img2ImgOptions(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(first["msg"], param_hint=option(str(first["loc"][0]))) from error


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report values outside the app's limits, and an app that does not start, as bad usage."""
    try:
        yield
    except InvalidRequest as error:
        raise typer.BadParameter(encodable(error.message), param_hint=option(error.param)) from error
    except AppNotStarted as error:
        raise typer.BadParameter(encodable(str(error)), param_hint="--config") from error


def option(param: str) -> str:
    """A parameter's name on the command line: guidance_scale -> --guidance-scale."""
    return "--" + param.replace("_", "-")
