"""What becomes of each image: its model, prompt, seed and the names of its results.

Every choice follows from the configuration and the image's own relative path, never from the order of the
files, so a second run makes the same results.
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
MORE_DIGITS = (DIGITS, 16, 64)  # tried in turn where names are the same


@dataclass(frozen=True, slots=True)
class Plan:
    """One job for each result, and the `failures` of images whose captions ask for what the app does not allow.

    `num_repeats` counts results that were asked for more than once: by two rows, or by a sweep over what a row fixes.
    """

    jobs: list[Job]
    failures: list[Result]
    num_repeats: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A result without a name. A row's `output` is its name where it `is_only`, the one result of its row."""

    source: Source
    settings: Settings
    is_only: bool


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
    sources: Iterable[Source],
    options: Img2ImgOptions,
    sweep: Sweep,
    output_format: OutputFormat | None,
    config: AppConfig,
) -> Plan:
    """The jobs of all sources, no two with names that some file system takes for one.

    What a source says of itself comes before the sweep's values, and those before `options`. Without an
    `output_format` each result keeps its source's extension. Raises UnknownModel or InvalidRequest, naming the row
    where one is to blame.
    """
    drafts: dict[object, Draft] = {}
    failures = []
    num_asked = 0
    for source in sources:
        try:
            asked = _settings(source, options, sweep, config)
        except InvalidRequest as error:
            _settings(replace(source, overrides=NOTHING_SPECIAL), options, sweep, config)  # raises if not its fault
            if source.where is not None:
                raise InvalidRequest(f"{source.where}: {error}", "input") from error
            failures.append(Result(source=source.path, error_type=type(error).__name__, error=f"caption: {error}"))
            continue
        num_asked += len(asked)
        different = dict.fromkeys(asked)
        for settings in different:
            key = source.path, source.mask, source.output, settings
            drafts.setdefault(key, Draft(source, settings, is_only=len(different) == 1))
    jobs = [_job(draft, name, config) for draft, name in _named(list(drafts.values()), output_format, config)]
    return Plan(jobs, failures, num_asked - len(jobs))


def plan_one(source: Source, settings: Settings, config: AppConfig) -> Job:
    """The job of one image, its result in the same sub-folder and format as its source."""
    draft = Draft(source, settings, is_only=True)
    return _job(draft, _name(draft, None, config.defaults_for(settings.model)), config)


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


def _named(drafts: list[Draft], output_format: OutputFormat | None, config: AppConfig) -> Iterator[tuple[Draft, str]]:
    """Each draft and its path, the digest spelled out as far as it takes to make all of them different."""
    defaults = {name: config.defaults_for(name) for name in config.models}
    names = [_name(draft, output_format, defaults[draft.settings.model]) for draft in drafts]
    for digits in MORE_DIGITS:
        keys = [folded(PurePosixPath(name)) for name in names]
        holders = Counter(keys)
        if len(holders) == len(keys):
            break
        for index, key in enumerate(keys):
            if holders[key] > 1:
                draft = drafts[index]
                names[index] = _name(draft, output_format, defaults[draft.settings.model], digits)
    return zip(drafts, names, strict=True)


def _name(draft: Draft, output_format: OutputFormat | None, defaults: Defaults, digits: int = 0) -> str:
    source = draft.source
    if source.output is not None and draft.is_only:
        return source.output
    path = PurePosixPath(source.output or source.path)
    extension = path.suffix
    if source.output is None and output_format is not None and FORMATS[extension.lower()] != output_format:
        extension = EXTENSIONS[output_format]
    mask = None if source.mask is None else source.mask.path
    name = output_name(path, draft.settings, extension, defaults=defaults, mask=mask, digits=digits)
    return str(path.parent / name)


def _job(draft: Draft, output: str, config: AppConfig) -> Job:
    source, mask = draft.source, draft.source.mask
    return Job(
        source=source.path,
        output=output,
        settings=draft.settings,
        revision=config.models[draft.settings.model].revision,
        source_bytes=source.size,
        source_mtime_ns=source.mtime_ns,
        mask=mask.path if mask else None,
        mask_bytes=mask.size if mask else None,
        mask_mtime_ns=mask.mtime_ns if mask else None,
    )
