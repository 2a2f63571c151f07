"""Prints the parameters of an image, and the command that makes it again.

    python -m batch.show data/output_images/photo_in_the_style_of_picasso_str0.3_guide12_steps20_seed7_sd15.png

The parameters are read from the file, or for a format without them (BMP) from results.jsonl in its folder or above.
Exit codes: 0 printed, 1 no parameters, 2 bad usage: no such file, or not an image.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from batch import program
from batch.planning.naming import FORMATS, shortest
from batch.record.results import RESULTS_FILE, Result
from deployments.engine.request import Sampler
from deployments.images.codec import ImageError
from deployments.images.metadata import SAMPLER_NAMES, parse_parameters, read_parameters
from deployments.schemas import Img2ImgOptions

# The options in the order of the command, with their names in the text in an image.
NAMES = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "model": "Model",
    "strength": "Denoising strength",
    "guidance_scale": "CFG scale",
    "num_inference_steps": "Steps",
    "seed": "Seed",
    "sampler": "Sampler",
    "max_side": "Size",
    "loras": "Loras",
}
# SAMPLER_NAMES, and the names that the web UI wrote before it had schedule types.
SAMPLERS: dict[tuple[str, str], Sampler] = {
    **{names: sampler for sampler, names in SAMPLER_NAMES.items()},
    **{(name, ""): sampler for sampler, (name, _) in SAMPLER_NAMES.items() if sampler != "dpmpp_2m_karras"},
    ("DPM++ 2M", "Automatic"): "dpmpp_2m_karras",
    ("DPM++ 2M Karras", ""): "dpmpp_2m_karras",
}
UNKNOWN_SOURCE = "SOURCE"


def main(
    file: Annotated[Path, typer.Argument(help="An image made by this app or by AUTOMATIC1111's web UI.")],
) -> None:
    """Print the parameters of an image, and the command that makes it again."""
    text = _read(file)
    record = find_record(file)
    if text is not None:
        facts = facts_in(text)
        options, refused = options_of(facts)
    elif record is not None:
        options, refused = {name: value for name in NAMES if (value := getattr(record, name)) is not None}, []
        facts = {NAMES[name]: _written(value) for name, value in options.items()}
    else:
        typer.echo(f"{file} has no parameters, and no {RESULTS_FILE} in its folder or above lists it", err=True)
        raise typer.Exit(1)
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            typer.echo(f"{name:{width}}  {_visible(value)}")
    mask = {"mask": record.mask} if record and record.mask else {}
    typer.echo("\n" + command(options | mask, record.source if record else UNKNOWN_SOURCE, file))
    for problem in [*refused, *_notes(record)]:
        typer.echo(f"note: {_visible(problem)}", err=True)


def find_record(file: Path) -> Result | None:
    """The last line about `file` in the results.jsonl of its folder or one above."""
    path = file.resolve()
    for folder in path.parents:
        table = folder / RESULTS_FILE
        if table.is_file():
            return _last_line(table, path.relative_to(folder).as_posix())
    return None


def facts_in(text: str) -> dict[str, str]:
    """The parameters in an image's text by name, in the order of the text."""
    facts = parse_parameters(text)
    if "Size-1" not in facts:
        return facts
    width, height = facts.pop("Size-1"), facts.pop("Size-2")
    return facts | {"Size": f"{width}x{height}"}


def options_of(facts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The options of an image's parameters, and a message for each parameter that is left out.

    Without a negative prompt the option is left out, so that the model's default applies, if it has one.
    """
    values = {name: value for name, label in NAMES.items() if (value := facts.get(label))}
    if "max_side" in values:
        values["max_side"] = max(values["max_side"].split("x"), key=lambda digits: (len(digits), digits))
    if "sampler" in values:
        names = values["sampler"], facts.get("Schedule type", "")
        values["sampler"] = SAMPLERS.get(names, " ".join(names).strip())
    options: dict[str, Any] = {}
    refused = []
    for name, value in values.items():
        try:
            if "\0" in value:
                raise ValueError("a command line cannot contain a NUL character")
            options[name] = getattr(Img2ImgOptions(**{name: value}), name)
        except ValueError as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            refused.append(f"{NAMES[name]} {value!r} is left out: {reason}")
    return options, refused


def command(options: Mapping[str, Any], source: str, file: Path) -> str:
    """The shell command that makes the image again, from `source` and in the format of `file`."""
    words = ["python", "-m", "batch.run_image", f"./{source}" if source.startswith("-") else source]
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), _written(value)]
    wanted, default = (FORMATS.get(Path(name).suffix.lower()) for name in (file.name, source))
    if wanted and default and wanted != default:
        words += ["--output-filename", file.name]
    return " ".join(map(quote, words))


def quote(word: str) -> str:
    """The word quoted for a shell. Control characters are escaped for bash and zsh, so that none acts on a terminal."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escape, word)) + "'"


def _escape(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character == "\n":
        return r"\n"
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode(errors="replace"))


def _visible(text: str) -> str:
    """The text for a terminal, with its control characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _written(value: object) -> str:
    return shortest(value) if isinstance(value, float) else str(value)


def _read(file: Path) -> str | None:
    try:
        return read_parameters(file.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"cannot read {str(file)!r}: {error.strerror}", param_hint="FILE") from error
    except ImageError as error:
        raise typer.BadParameter(f"{str(file)!r}: {error.message}", param_hint="FILE") from error


def _last_line(table: Path, output: str) -> Result | None:
    last = None
    for result in _lines_with(table, json.dumps(output, ensure_ascii=False)):
        if result.output == output and result.error_type is None:
            last = result
    return last


def _lines_with(table: Path, text: str) -> Iterator[Result]:
    """The results on the lines that contain `text`. No other line is parsed, as there may be a hundred thousand."""
    with table.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if text in line:
                with suppress(ValidationError):  # a torn or foreign line
                    yield Result.model_validate_json(line)


def _notes(record: Result | None) -> Iterator[str]:
    if record is None:
        yield f"{UNKNOWN_SOURCE} stands for the source image: no {RESULTS_FILE} in its folder or above lists it"
    else:
        for path in filter(None, (record.source, record.mask)):
            yield f"{path} is a path in the input folder of the job"


def cli() -> None:
    """The command's entry point."""
    program.run(main)


if __name__ == "__main__":
    cli()
