"""The jobs of all images: each one's model, prompt, seed and the name of its result.

Every choice depends on the configuration and the image's own relative path, never on the order of the files, so a
second run makes the same results.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from batch.planning.manifest import NOTHING_SPECIAL
from batch.planning.naming import DIGITS, FORMATS, folded, output_name
from batch.planning.sources import Source
from batch.planning.sweep import Sweep
from batch.record.results import Job, Result
from deployments.config import AppConfig, Defaults
from deployments.engine.errors import InvalidRequest
from deployments.routing import choose_model, resolve
from deployments.schemas import MAX_SEED, Img2ImgOptions, OutputFormat, Settings

EXTENSIONS: dict[OutputFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
MORE_DIGITS = (DIGITS, 16, 64)  # tried in turn for equal names


@dataclass(frozen=True, slots=True)
class Plan:
    """One job for each result, and the `failures` of images whose captions request what the app does not allow.

    `num_duplicates` counts requests for a result that another row, or another value of a sweep, requests too.
    """

    jobs: list[Job]
    failures: list[Result]
    num_duplicates: int


@dataclass(frozen=True, slots=True)
class UnnamedJob:
    """A job whose result has no name yet. `is_only` says that it is the one result of its row, which may name it."""

    source: Source
    settings: Settings
    is_only: bool


def choose(source: PurePosixPath, options: Img2ImgOptions, config: AppConfig) -> Settings:
    """The settings of one image. What `options` leaves out is drawn from the configuration by the image's path.

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
    sources: Iterable[Source],
    options: Img2ImgOptions,
    sweep: Sweep,
    output_format: OutputFormat | None,
    config: AppConfig,
) -> Plan:
    """The jobs of all sources. No two have names that some file system takes for one.

    A source's own settings take precedence over the sweep's values, and these over `options`. Without an
    `output_format` each result keeps its source's extension. Raises UnknownModel or InvalidRequest, which names the
    row if a row has the invalid setting.
    """
    unnamed: dict[object, UnnamedJob] = {}
    failures = []
    num_requested = 0
    for source in sources:
        try:
            requested = _settings(source, options, sweep, config)
        except InvalidRequest as error:
            _settings(replace(source, overrides=NOTHING_SPECIAL), options, sweep, config)  # raises for the options
            if source.where is not None:
                raise InvalidRequest(f"{source.where}: {error}", "input") from error
            failures.append(Result(source=source.path, error_type=type(error).__name__, error=f"caption: {error}"))
            continue
        num_requested += len(requested)
        different = dict.fromkeys(requested)
        for settings in different:
            key = source.path, source.mask, source.output, settings
            unnamed.setdefault(key, UnnamedJob(source, settings, is_only=len(different) == 1))
    jobs = [_with_name(job, name, config) for job, name in _names(list(unnamed.values()), output_format, config)]
    return Plan(jobs, failures, num_requested - len(jobs))


def plan_one(source: Source, settings: Settings, config: AppConfig) -> Job:
    """The job of one image. Its result has the sub-folder and the format of its source."""
    job = UnnamedJob(source, settings, is_only=True)
    return _with_name(job, _name(job, None, config.defaults_for(settings.model)), config)


def _settings(source: Source, options: Img2ImgOptions, sweep: Sweep, config: AppConfig) -> list[Settings]:
    own = source.overrides.model_dump(exclude_unset=True)
    most = MAX_SEED - sweep.seeds + 1
    settings = []
    for values in sweep.combinations():
        wanted = options.model_copy(update=values | own) if values or own else options
        first = choose(PurePosixPath(source.path), wanted, config)
        if first.seed > most:
            raise InvalidRequest(f"seed must be at most {most} for {sweep.seeds} seeds, not {first.seed}", "seed")
        settings.append(first)
        settings += [first.model_copy(update={"seed": first.seed + number}) for number in range(1, sweep.seeds)]
    return settings


def _names(
    jobs: list[UnnamedJob], output_format: OutputFormat | None, config: AppConfig
) -> Iterator[tuple[UnnamedJob, str]]:
    """Each job with the path of its result, with enough digits of the digest to make all paths different."""
    defaults = {name: config.defaults_for(name) for name in config.models}
    names = [_name(job, output_format, defaults[job.settings.model]) for job in jobs]
    for digits in MORE_DIGITS:
        keys = [folded(PurePosixPath(name)) for name in names]
        counts = Counter(keys)
        if len(counts) == len(keys):
            break
        for index, key in enumerate(keys):
            if counts[key] > 1:
                job = jobs[index]
                names[index] = _name(job, output_format, defaults[job.settings.model], digits)
    return zip(jobs, names, strict=True)


def _name(job: UnnamedJob, output_format: OutputFormat | None, defaults: Defaults, digits: int = 0) -> str:
    source = job.source
    if source.output is not None and job.is_only:
        return source.output
    path = PurePosixPath(source.output or source.path)
    extension = path.suffix
    if source.output is None and output_format is not None and FORMATS[extension.lower()] != output_format:
        extension = EXTENSIONS[output_format]
    mask = None if source.mask is None else source.mask.path
    name = output_name(path, job.settings, extension, defaults=defaults, mask=mask, digits=digits)
    return str(path.parent / name)


def _with_name(job: UnnamedJob, output: str, config: AppConfig) -> Job:
    source, mask = job.source, job.source.mask
    return Job(
        source=source.path,
        output=output,
        settings=job.settings,
        revision=config.models[job.settings.model].revision,
        source_bytes=source.size,
        source_mtime_ns=source.mtime_ns,
        mask=mask.path if mask else None,
        mask_bytes=mask.size if mask else None,
        mask_mtime_ns=mask.mtime_ns if mask else None,
    )
