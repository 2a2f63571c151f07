"""The source images of a folder job: from a folder, a glob, a list or a table.

The storage is listed once, whatever the number of images. Only captions are read one by one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from posixpath import commonpath, dirname, join

from fsspec.utils import glob_translate

from batch.planning.captions import Captions, caption_path, read_captions
from batch.planning.locations import (
    ANY_FOLDERS,
    is_folder,
    open_folder,
    path_of,
    read_file,
    roots_of,
    split_glob,
    split_uri,
)
from batch.planning.manifest import NOTHING_SPECIAL, OUR_FILES, READERS, Row, is_manifest, read_lines, read_rows
from batch.planning.naming import FORMATS, folded, is_image, is_unreadable_image, valid_name
from batch.record.results import RESULTS_FILE, Result
from batch.storage.storage import FileInfo, Storage
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions

NAMED = 5  # of the images that are left out

Files = dict[str, FileInfo]


@dataclass(frozen=True, slots=True)
class Source:
    """One source image and its own settings. Paths are relative to the input or the output folder.

    `size` is in bytes; it and `mtime_ns` are None if unknown. `overrides` holds the settings of its row or its
    caption, which take precedence over the command line's. `where` names the row, if the row has a setting.
    """

    path: str
    size: int | None = None
    mtime_ns: int | None = None
    overrides: Img2ImgOptions = NOTHING_SPECIAL
    mask: FileInfo | None = None
    output: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class SourceListing:
    """The `sources` in `storage`, and `failures`, the images that cannot be read.

    `problems` are messages for people; none of them stops the job. `num_ignored` counts files that are neither images
    nor captions; `problems` names images of formats that are not read.
    """

    storage: Storage
    sources: list[Source]
    failures: list[Result]
    problems: list[str]
    num_ignored: int


def find_sources(input: str, manifest: str | None = None, *, recursive: bool = True) -> SourceListing:
    """The images of `input`, a local path or a URI: a folder, a glob (`**` for any folders), a list or a table.

    What is a folder by that very name is no glob, brackets or not.
    The paths in a list (.txt) or a table (.csv, .jsonl, .parquet) are relative to its own folder, those of `manifest`,
    itself a list or a table, to the folder `input`. A text file beside an image, `photo.txt` for `photo.jpg`, is its
    prompt, unless its row has one. Raises InvalidRequest.
    """
    if manifest is None and is_manifest(path_of(input)) and not is_folder(input):
        manifest, input = input, split_uri(input)[0]
    if manifest is not None:
        return _in_manifest(input, manifest)
    folder, pattern = split_glob(input)
    return _in_folder(folder, pattern, recursive and ("/" in pattern or "**" in pattern))


def check_found(listing: SourceListing) -> None:
    """Raises InvalidRequest if there is nothing to do, as after a typing error."""
    if not listing.sources and not listing.failures:
        problems = "".join(f"; {problem}" for problem in listing.problems[:1])
        raise InvalidRequest(
            f"no image found in {str(listing.storage)!r}; {listing.num_ignored} other files ignored{problems}", "input"
        )


def read_prompts(path: str) -> tuple[str, ...]:
    """The prompts of a text file, one a line. Raises InvalidRequest."""
    name, data = read_file(path, "prompts_file")
    try:
        prompts = tuple(line.strip() for _, line in read_lines(name, data))
    except ValueError as error:
        raise InvalidRequest(str(error), "prompts_file") from error
    if not prompts:
        raise InvalidRequest(f"{name} has no prompt in it; it needs one a line", "prompts_file")
    return prompts


def misnamed(path: PurePosixPath) -> Result:
    """The failed result of an image whose name is not valid UTF-8."""
    escaped = str(path).encode(errors="backslashreplace").decode()
    return Result(source=escaped, error_type="BadFileName", error="the file name is not valid UTF-8")


def _in_folder(uri: str, pattern: str, recursive: bool) -> SourceListing:
    try:
        matches = re.compile(glob_translate(pattern)).match
    except ValueError as error:
        raise InvalidRequest(f"{pattern!r}: {error}", "input") from error
    storage = open_folder(uri)
    problems: list[str] = []
    files = _files_of(storage, recursive, problems)
    reports = set(map(str, OUR_FILES)) if RESULTS_FILE in files else set()  # the input is the output of another job
    matched = [path for path in files if matches(path) and path not in reports]
    if not matched and pattern != ANY_FOLDERS:
        hint = "; a bracket that belongs to a name is written [[]" if "[" in pattern else ""
        raise InvalidRequest(f"no file in {str(storage)!r} matches {pattern!r}{hint}", "input")
    rows = [Row(None, path) for path in matched if is_image(PurePosixPath(path))]
    captions = read_captions(storage, rows, files)
    others = set(matched).difference((row.image for row in rows), map(caption_path, captions))
    sources, failures = _sources(rows, files, captions)
    unreadable = sorted(path for path in others if is_unreadable_image(PurePosixPath(path)))
    problems += [*_look_alikes(sources), *_unreadable(unreadable)]
    return SourceListing(storage, sources, failures, problems, len(others) - len(unreadable))


def _in_manifest(uri: str, manifest: str) -> SourceListing:
    name, data = read_file(manifest, "input")
    storage = open_folder(uri)
    rows = read_rows(name, data, roots_of(storage))
    files = _files_around(storage, [path for row in rows for path in (row.image, row.mask) if path is not None])
    sources, failures = _sources(rows, files, read_captions(storage, rows, files))
    return SourceListing(storage, sources, failures, list(_look_alikes(sources)), 0)


def _sources(rows: list[Row], files: Files, captions: Captions) -> tuple[list[Source], list[Result]]:
    """The images to make, and the failed results of the others."""
    found = [_source(row, files, captions) for row in rows]
    return [each for each in found if isinstance(each, Source)], [each for each in found if isinstance(each, Result)]


def _source(row: Row, files: Files, captions: Captions) -> Source | Result:
    path = PurePosixPath(row.image)
    if not valid_name(path):
        return misnamed(path)
    if not is_image(path):
        return Result(source=row.image, error_type="NotAnImage", error=f"image files end in {' '.join(FORMATS)}")
    for name in (row.image, row.mask):
        if name is not None and name not in files:
            error = f"no file {name!r}" + (f" ({row.where})" if row.where else "")
            return Result(source=row.image, error_type="FileNotFoundError", error=error)
    overrides = row.overrides
    if overrides.prompt is None and (caption := captions.get(row.image)):
        if isinstance(caption, Exception):
            error = f"its caption {caption_path(row.image)!r}: {caption}"
            return Result(source=row.image, error_type="BadCaption", error=error)
        overrides = overrides.model_copy(update={"prompt": caption})
    info = files[row.image]
    mask = None if row.mask is None else files[row.mask]
    where = row.where if row.overrides.model_fields_set else None
    return Source(row.image, info.size, info.mtime_ns, overrides, mask, row.output, where)


def _look_alikes(sources: list[Source]) -> Iterator[str]:
    groups = defaultdict(list)
    for path in dict.fromkeys(source.path for source in sources):
        groups[folded(PurePosixPath(path))].append(ascii(path))
    for group in groups.values():
        if len(group) > 1:
            yield f"{' and '.join(group)} are one name on file systems that ignore case or Unicode form"


def _unreadable(paths: list[str]) -> Iterator[str]:
    if paths:
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        yield f"left out, as their format is not read: {', '.join(map(ascii, paths[:NAMED]))}{more}"


def _files_of(storage: Storage, recursive: bool, problems: list[str]) -> Files:
    try:
        return {info.path: info for info in storage.files(recursive, problems.append)}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"no folder {str(storage)!r}, nor a list or table ({' '.join(READERS)})", "input"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"{storage}: {error}", "input") from error


def _files_around(storage: Storage, paths: list[str]) -> Files:
    """The files of the innermost folder that holds all `paths`, as a table may lie above many other files."""
    folders = {dirname(path) for path in paths}
    inner = commonpath(folders) if folders else ""
    recursive = folders != {inner}
    if not inner:
        return _files_of(storage, recursive, [])
    try:
        files = list(storage.folder(inner).files(recursive))
    except (FileNotFoundError, NotADirectoryError):
        _files_of(storage, False, [])  # raises where there is no input folder at all
        return {}
    return {path: replace(info, path=path) for info in files if (path := join(inner, info.path))}
