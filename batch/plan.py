"""Which images a folder holds, and what becomes of each: its model, prompt, seed and the name of its result.

Every choice follows from the configuration and the image's own relative path, never from the order of the
files, so a second run makes the same results.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from batch.naming import FORMATS, folded, output_name
from batch.results import RESULTS_FILE, Job, Result
from deployments.config import AppConfig
from deployments.routing import choose_model, resolve
from deployments.schemas import Img2ImgOptions, OutputFormat, Settings

EXTENSIONS: dict[OutputFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def find_files(folder: Path, *, recursive: bool) -> Iterator[PurePosixPath]:
    """The files in `folder`, relative to it and sorted, without hidden ones and an earlier run's results table."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if not name.startswith(".") and name != RESULTS_FILE:
                yield PurePosixPath((Path(parent) / name).relative_to(folder).as_posix())


def is_image(path: PurePosixPath) -> bool:
    """Whether the extension, in any case, is one of a picture format we read and write."""
    return path.suffix.lower() in FORMATS


def valid_name(path: PurePosixPath) -> bool:
    """Whether the path is valid UTF-8, without which no results table could name it."""
    return str(path).encode(errors="replace").decode() == str(path)


def misnamed(path: PurePosixPath) -> Result:
    """The result of an image that cannot be named."""
    shown = str(path).encode(errors="backslashreplace").decode()
    return Result(source=shown, error_type="BadFileName", error="the file name is not valid UTF-8")


def choose(source: PurePosixPath, options: Img2ImgOptions, config: AppConfig) -> Settings:
    """The settings of one image: what `options` leaves open is drawn from the configuration by the image's path.

    Raises UnknownModel or InvalidRequest.
    """
    draw = random.Random(f"{config.seed}/{source}")
    seed, ticket, lot = draw.getrandbits(32), draw.getrandbits(32), draw.random()
    model = choose_model(options.model or "auto", config, ticket)
    if options.prompt is None and config.prompts:
        prompt = config.prompts[int(lot * len(config.prompts))]
        options = options.model_copy(update={"prompt": prompt})
    return resolve(options, config, model, seed if options.seed is None else options.seed)


def plan(
    sources: Iterable[PurePosixPath],
    options: Img2ImgOptions,
    output_format: OutputFormat | None,
    config: AppConfig,
) -> list[Job]:
    """One job per image, no two with names that some file system takes for one.

    Without an `output_format` each result keeps its source's extension. Raises UnknownModel or InvalidRequest.
    """
    jobs = []
    for source in sources:
        settings = choose(source, options, config)
        jobs.append(plan_one(source, settings, output_format, config))
    holders = Counter(folded(PurePosixPath(job.output)) for job in jobs)
    return [
        plan_one(PurePosixPath(job.source), job.settings, output_format, config, distinct=True)
        if holders[folded(PurePosixPath(job.output))] > 1
        else job
        for job in jobs
    ]


def plan_one(
    source: PurePosixPath,
    settings: Settings,
    output_format: OutputFormat | None,
    config: AppConfig,
    *,
    distinct: bool = False,
) -> Job:
    """The job of one image, its result in the same sub-folder as its source."""
    extension = source.suffix
    if output_format is not None and FORMATS[extension.lower()] != output_format:
        extension = EXTENSIONS[output_format]
    name = output_name(source, settings, extension, defaults=config.defaults_for(settings.model), distinct=distinct)
    return Job(source=str(source), output=str(source.parent / name), settings=settings)
