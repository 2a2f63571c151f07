"""The one-file job: makes an image of one source image, with the code of the folder job.

    python -m batch.run_image photo.jpg --prompt "in the style of picasso" --strength 0.5

Exit codes: 0 done, 1 failed, 2 bad usage.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from batch import options as cli
from batch import program
from batch.cluster import find_app
from batch.planning.naming import FORMATS, is_image, valid_name
from batch.planning.plan import plan_one
from batch.planning.sources import Source
from batch.running.worker import ImageWorker
from batch.storage.backends import LocalFolder
from batch.storage.storage import FileInfo, Storage
from deployments.config import Limits
from deployments.images.codec import ImageError, decode_image
from deployments.routing import choose_model, resolve


def main(
    filename: Annotated[Path, typer.Argument(help="The source image: a path, or a name in data/input_images.")],
    output_filename: Annotated[
        str | None, typer.Option(help="The result's name, whose extension is the format.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for the result.")] = cli.OUTPUT_FOLDER,
    config: cli.ServeConfig = cli.SERVE_CONFIG,
    app_name: cli.AppName = cli.APP_NAME,
    prompt: cli.Prompt = None,
    negative_prompt: cli.NegativePrompt = None,
    model: cli.Model = None,
    strength: cli.Strength = None,
    guidance_scale: cli.GuidanceScale = None,
    num_inference_steps: cli.Steps = None,
    seed: cli.Seed = None,
    sampler: cli.Sampler = None,
    max_side: cli.MaxSide = None,
    loras: cli.Loras = None,
    strip: cli.Strip = False,
    mask: Annotated[
        Path | None, typer.Option(help="The mask, found like FILENAME: white changes, black and transparent stay.")
    ] = None,
) -> None:
    """Make an image of one source image and print its path. Options left out take the app's defaults."""
    options = cli.image_options(
        prompt=prompt,
        negative_prompt=negative_prompt,
        model=model,
        strength=strength,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        seed=seed,
        sampler=sampler,
        max_side=max_side,
        loras=loras,
    )
    source = _find(filename, "FILENAME")
    mask = None if mask is None else _find(mask, "--mask")
    _check_extension(output_filename)
    with cli.usage_errors(), find_app(config, app_name, typer.echo) as app:
        number = app.config.seed if options.seed is None else options.seed
        settings = resolve(options, app.config, choose_model(options.model, app.config, number), number)
        info = None if mask is None else _mask_info(mask, source.parent, app.config.limits)
        job = plan_one(Source(source.name, mask=info), settings, app.config)
        if strip:
            job = job.model_copy(update={"strip": True})
        if output_filename is not None:
            job = job.model_copy(update={"output": output_filename})
        inputs, outputs = (Storage(LocalFolder(folder.absolute())) for folder in (source.parent, output))
        worker = ImageWorker(app.router_for([settings.model]), app.config.limits, inputs, outputs)
        result, _ = asyncio.run(worker.run(job))
    if result.error_type:
        typer.echo(f"failed: {source}: {result.error_type}: {result.error}", err=True)
        raise typer.Exit(1)
    typer.echo(str(output / job.output))


def _find(filename: Path, param: str) -> Path:
    for path in (filename, cli.INPUT_FOLDER / filename):
        if path.is_file() and is_image(PurePosixPath(path.name)) and valid_name(PurePosixPath(path)):
            return path
    extensions = " ".join(FORMATS)
    raise typer.BadParameter(f"no image {str(filename)!r}; image files end in {extensions}", param_hint=param)


def _mask_info(mask: Path, folder: Path, limits: Limits) -> FileInfo:
    """The mask's path relative to `folder`, size and time. Raises typer.BadParameter."""
    try:
        data = mask.read_bytes()
        decode_image(data, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)
    except (OSError, ImageError) as error:
        raise typer.BadParameter(f"{str(mask)!r}: {error}", param_hint="--mask") from error
    path = Path(os.path.relpath(mask.resolve(), folder.resolve()))
    return FileInfo(path.as_posix(), len(data), mask.stat().st_mtime_ns)


def _check_extension(output_filename: str | None) -> None:
    path = None if output_filename is None else PurePosixPath(output_filename)
    if path is not None and not (is_image(path) and valid_name(path)):
        raise typer.BadParameter(
            f"{output_filename!r} must end in one of {' '.join(FORMATS)}, and be valid UTF-8",
            param_hint="--output-filename",
        )


def command() -> None:
    """The command's entry point."""
    program.run(main)


if __name__ == "__main__":
    command()
