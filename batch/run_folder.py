"""The folder job: maps every picture of a folder through the served models with Ray Data.

    python -m batch.run_folder --input photos --output paintings --prompt "in the style of picasso"

Exit codes: 0 all done, 1 some images failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from batch import options as cli
from batch.cluster import connect
from batch.pipeline import run_jobs
from batch.plan import find_files, is_image, misnamed, plan, valid_name
from batch.results import RESULTS_FILE, Result
from batch.worker import ImageWorker

LISTED_FAILURES = 50
CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)


def main(
    input: Annotated[Path, typer.Option(help="The folder with the pictures.")] = cli.INPUT_FOLDER,
    output: Annotated[Path, typer.Option(help="Where results and results.jsonl go.")] = cli.OUTPUT_FOLDER,
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
    output_format: Annotated[
        str | None, typer.Option(help="png, jpeg or webp; left out, each source's own format.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Images in flight at a time.")] = 16,
    recursive: Annotated[bool, typer.Option(help="Go into sub-folders, which the results keep.")] = True,
) -> None:
    """Make an image of every picture in a folder.

    Without --model and --prompt each picture gets its own, drawn from the app's lists; a second run draws the
    same. Results carry their settings in their names and files; results.jsonl has a line for each picture.
    """
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
        output_format=output_format,
    )
    _check_folders(input, output)
    files = list(find_files(input, recursive=recursive))
    images = [path for path in files if is_image(path)]
    CONSOLE.print(f"{len(images)} images in {input}; {len(files) - len(images)} other files ignored")
    table = output / RESULTS_FILE
    if not images:
        _record((), 0, table)
        return
    with cli.usage_errors(), connect(config, app_name, CONSOLE.print) as (router, app):
        jobs = plan(filter(valid_name, images), options, options.output_format if output_format else None, app)
        unnamed = (misnamed(path) for path in images if not valid_name(path))
        worker = ImageWorker(router, app.limits, input.absolute(), output.absolute())
        failed = _record(chain(unnamed, run_jobs(jobs, worker, concurrency)), len(images), table)
    CONSOLE.print(f"{len(images) - len(failed)} of {len(images)} images done; see {table}")
    for result in failed[:LISTED_FAILURES]:
        CONSOLE.print(f"failed: {result.source}: {result.error_type}: {result.error}")
    if len(failed) > LISTED_FAILURES:
        CONSOLE.print(f"and {len(failed) - LISTED_FAILURES} more")
    if failed:
        raise typer.Exit(1)


def _record(results: Iterable[Result], total: int, path: Path) -> list[Result]:
    """Write each result as a line of `path` when it comes, show the progress, and return the failed ones."""
    failed = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as table, Progress(console=CONSOLE, disable=not CONSOLE.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        for count, result in enumerate(results, 1):
            table.write(result.model_dump_json() + "\n")
            table.flush()
            bar.advance(task)
            if result.error_type:
                failed.append(result)
            if not CONSOLE.is_terminal:
                CONSOLE.print(f"[{count}/{total}] {result.source}: {result.error_type or result.output}")
    return failed


def _check_folders(input: Path, output: Path) -> None:
    if not input.is_dir():
        raise typer.BadParameter(f"no folder {str(input)!r}", param_hint="--input")
    source, target = input.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise typer.BadParameter(
            f"{str(output)!r} and the input folder {str(input)!r} must lie outside each other", param_hint="--output"
        )
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{str(output)!r} is not a folder", param_hint="--output")


if __name__ == "__main__":
    typer.run(main)
