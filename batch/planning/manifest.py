"""Lists and tables of images for a folder job, with settings for each image. Reads bytes only.

A list (.txt) has one path a line. A table (.csv, .jsonl, .parquet) has a column `image` (or `file`, `source`,
`path`), and optional columns for each setting, for a mask and for the result's name. An empty cell leaves the choice
to the options and the app.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from batch.planning.naming import FORMATS, NAME_BYTES, folded, is_image, valid_name
from deployments.allowed_values import refusal
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions, Settings

SETTINGS = tuple(Settings.model_fields)
COLUMNS = ("image", *SETTINGS, "mask", "output")
ALIASES = {"file": "image", "source": "image", "path": "image"}
PROMPTS = ("prompt", "negative_prompt")  # "" and null differ here, in the formats that have both
OUR_FILES = (PurePosixPath("contact_sheet.png"),)  # image files in the output folder that are no results
NOTHING_SPECIAL = Img2ImgOptions()
LISTED_FAULTS = 10

Cells = tuple[str, list[str], list[Any]]  # a row: its position, its columns and their values


@dataclass(frozen=True, slots=True)
class Row:
    """One image. Paths are relative, with `/`. `where` is the row's position: "photos.csv, row 7"."""

    where: str | None
    image: str
    overrides: Img2ImgOptions = NOTHING_SPECIAL
    mask: str | None = None
    output: str | None = None


def is_manifest(name: str) -> bool:
    """Whether the name has the extension of a list or a table."""
    return PurePosixPath(name).suffix.lower() in READERS


def read_rows(name: str, data: bytes, roots: Iterable[str]) -> list[Row]:
    """The rows of the list or table `data`. The extension of `name` gives the format.

    A path may be relative, or start with one of `roots`, the spellings of the folder. Raises InvalidRequest, which
    names the faulty rows and columns and the values they may hold.
    """
    rows: list[Row] = []
    faults: list[str] = []
    owners: dict[str, str] = {}
    try:
        for where, columns, values in READERS[PurePosixPath(name).suffix.lower()](name, data):
            try:
                row = _row(where, dict(zip(columns, values, strict=True)), tuple(roots))
            except ValueError as error:
                faults.append(f"{where}, {error}")
                continue
            rows.append(row)
            other = where if row.output is None else owners.setdefault(folded(PurePosixPath(row.output)), where)
            if other != where:
                faults.append(f"{where}, column output: {row.output!r} is also the output of {other}")
    except ValueError as error:
        faults.append(str(error))
    if faults:
        more = [f"and {len(faults) - LISTED_FAULTS} more"] if len(faults) > LISTED_FAULTS else []
        raise InvalidRequest("\n".join([*faults[:LISTED_FAULTS], *more]), "input")
    return rows


def read_lines(name: str, data: bytes) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Raises ValueError if `data` is not UTF-8."""
    lines = (line.removesuffix("\r") for line in _text(name, data).split("\n"))
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_list(name: str, data: bytes) -> Iterator[Cells]:
    for number, line in read_lines(name, data):
        yield f"{name}, line {number}", ["image"], [line]


def _read_csv(name: str, data: bytes) -> Iterator[Cells]:
    """Row numbers are those of a spreadsheet: the header is row 1."""
    text = _text(name, data)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    table = csv.reader(StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=delimiter)
    number = 0
    try:
        columns = _columns(f"{name}, row 1", next(table, []))
        for number, cells in enumerate(table, 2):
            if len(cells) > len(columns):
                counts = f"{len(cells)} cells, the header {len(columns)}"
                raise ValueError(f"{name}, row {number} has {counts}: text with a {delimiter!r} needs quotes")
            if any(cells):
                yield f"{name}, row {number}", columns[: len(cells)], [cell or None for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{name}, after row {number}: {error}") from error


def _read_jsonl(name: str, data: bytes) -> Iterator[Cells]:
    for number, line in enumerate(_text(name, data).split("\n"), 1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON: {error.msg} at character {error.colno}") from error
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
            raise ValueError(f"{where}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: must be an object, one a line, not {line[:40]!r}")
        yield where, _columns(where, list(record)), list(record.values())


def _read_parquet(name: str, data: bytes) -> Iterator[Cells]:
    try:
        table = pyarrow.parquet.read_table(BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name}: {error}") from error
    columns = _columns(name, table.column_names)
    for number, record in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True), 1):
        yield f"{name}, row {number}", columns, list(record)


READERS: dict[str, Callable[[str, bytes], Iterator[Cells]]] = {
    ".txt": _read_list,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is not UTF-8: {error}") from error


def _columns(where: str, names: list[str]) -> list[str]:
    """The columns by their own names: `Guidance scale` is guidance_scale, `File` is image."""
    plain = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    columns = [ALIASES.get(name, name) for name in plain]
    for name, column in zip(names, columns, strict=True):
        if column not in COLUMNS:
            known = f"{', '.join(COLUMNS)}; for image also {', '.join(ALIASES)}"
            raise ValueError(f"{where}, column {name!r}: no such column; columns: {known}")
        if columns.count(column) > 1:
            raise ValueError(f"{where}, column {name!r}: there is more than one column for {column}")
    if "image" not in columns:
        raise ValueError(f"{where}: no column image (or {', '.join(ALIASES)})")
    return columns


def _row(where: str, values: dict[str, Any], roots: tuple[str, ...]) -> Row:
    """Raises ValueError for the first invalid column."""
    given = {name: value for name, value in values.items() if not _is_empty(name, value)}
    if "image" not in given:
        raise ValueError("column image: is empty")
    paths = {name: _path(name, given[name], roots) for name in ("image", "mask", "output") if name in given}
    if "output" in paths:
        _check_output(paths["output"])
    try:
        overrides = Img2ImgOptions(**{name: given[name] for name in SETTINGS if name in given})
    except ValidationError as error:
        field, message = refusal(error)
        raise ValueError(f"column {field}: {message}") from error
    return Row(where, overrides=overrides, **paths)


def _is_empty(column: str, value: Any) -> bool:
    """Whether the cell is null, NaN (null in other tools) or an empty text in a column other than a prompt."""
    return value is None or value != value or (value == "" and column not in PROMPTS)


def _path(column: str, value: Any, roots: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"column {column}: must be a path, not {value!r}")
    root = next((root for root in roots if value.startswith(root)), "") if column != "output" else ""
    rest = value.removeprefix(root)
    path = PurePosixPath(rest)
    is_outside = path.is_absolute() or ".." in path.parts or "://" in rest
    if is_outside or "\0" in rest or not path.name or not valid_name(path):
        inside = "the output folder" if column == "output" else f"the input folder {roots[0]}"
        raise ValueError(f"column {column}: {value!r} must be a path inside {inside}")
    return str(path)


def _check_output(output: str) -> None:
    path = PurePosixPath(output)
    if any(len(part.encode(errors="replace")) > NAME_BYTES for part in path.parts):
        raise ValueError(f"column output: {output!r} must have at most {NAME_BYTES} bytes in each part")
    if not is_image(path):
        raise ValueError(f"column output: {output!r} must end in one of {' '.join(FORMATS)}")
    if folded(path) in map(folded, OUR_FILES) or any(part.startswith(".") for part in path.parts):
        raise ValueError(f"column output: {output!r} must not be hidden, nor be {OUR_FILES[0]}")
