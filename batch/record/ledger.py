"""results.jsonl as the ledger of finished jobs, from which a stopped job resumes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import NoneType
from typing import Any, get_args

import pyarrow
from pyarrow import parquet
from pydantic import ValidationError

from batch.record.append_log import open_log
from batch.record.results import RESULTS_FILE, Job, Result
from batch.storage.storage import FileInfo, FileTooLarge, Storage
from deployments.images.codec import PILLOW_MAX_PIXELS, ImageError, decode_image

PARQUET_FILE = "results.parquet"
ARROW_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}


class Record:
    """The last line of every output, parsed once.

    `lines` has the bytes of each by `Result.key`, or by its number if it is no result: somebody may still want it.
    `problems` names those.
    """

    def __init__(self) -> None:
        self.lines: dict[str | int, bytes] = {}
        self.results: dict[str, Result] = {}
        self.problems: list[str] = []
        self.num_lines = 0
        self.is_changed = False

    def add(self, line: bytes) -> None:
        """Add the next line of the log."""
        self.num_lines += 1
        try:
            result = Result.model_validate_json(line)
        except ValidationError as error:
            self.problems.append(f"{RESULTS_FILE}, line {self.num_lines}: {error.errors()[0]['msg']}")
            self.lines[self.num_lines] = line
            return
        self.lines[result.key] = line
        self.results[result.key] = result

    def put(self, result: Result) -> None:
        """Add a result that is not in the log, or replace one."""
        self.lines[result.key] = line_of(result)
        self.results[result.key] = result
        self.is_changed = True

    def forget(self, key: str) -> None:
        """Drop the result of a key."""
        del self.lines[key], self.results[key]
        self.is_changed = True


class Ledger:
    """The results of an output storage. One program writes at a time. `append` is thread-safe."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._log = open_log(storage, RESULTS_FILE)

    def append(self, result: Result) -> None:
        """Record a result: at once on local storage, within five seconds elsewhere. Raises OSError."""
        self._log.append(line_of(result))

    def load(self) -> dict[str, Result]:
        """The last recorded result of every output, by `Result.key`. Raises OSError."""
        return self.read().results

    def read(self) -> Record:
        """All that is recorded. Raises OSError."""
        record = Record()
        for line in self._log.lines():
            record.add(line)
        return record

    def done(
        self,
        jobs: Iterable[Job],
        outputs: Iterable[FileInfo],
        *,
        retry_failed: bool = False,
        verify: Storage | None = None,
    ) -> tuple[list[Job], list[Result]]:
        """The jobs still to do, and the results of the others, which include failed ones unless `retry_failed`.

        A job is done if the last result of its output has the job's digest, and `outputs`, the listing of the storage,
        has the output with the recorded size. With `verify`, the input storage, the output must decode as well, and
        the sources are compared by their bytes, not by their modification times; the results have the new times.
        Nothing is written. Raises OSError.
        """
        jobs, last = list(jobs), self.load()
        if not last:
            return jobs, []
        sizes = {info.path: info.size for info in outputs}

        def finished_result(job: Job) -> Result | None:
            result = last.get(job.output)
            if result is None or (result.error_type is not None and retry_failed):
                return None
            if result.error_type is None and sizes.get(job.output, -1) != result.output_bytes:
                return None
            if result.error_type is None and verify is not None:
                return _with_same_bytes(job, result, verify, self._storage)
            return result if result.digest == job.digest else None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(map(finished_result, jobs) if verify is None else pool.map(finished_result, jobs))
        return [job for job, result in zip(jobs, results, strict=True) if result is None], list(filter(None, results))

    def close(self, record: Record) -> None:
        """Leave the record, as the last `read` returned it and with its changes since, in one file without duplicates.

        Nothing may be appended in between. Raises OSError.
        """
        self._log.close()
        if record.is_changed or record.num_lines != len(record.lines) or not self._log.is_one_file():
            self._log.rewrite(record.lines.values())

    def write_parquet(self, results: Iterable[Result]) -> None:
        """Write results.parquet: a row for each result, sorted, and a column for each field of Result."""
        rows = sorted(results, key=lambda result: (result.source, result.key))
        schema = pyarrow.schema([(name, _arrow_type(field.annotation)) for name, field in Result.model_fields.items()])
        table = pyarrow.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)
        buffer = BytesIO()
        parquet.write_table(table, buffer, compression="zstd")
        self._storage.write(PARQUET_FILE, buffer.getvalue())


def line_of(result: Result) -> bytes:
    """The line of a result in results.jsonl, without its newline."""
    return result.model_dump_json().encode()


def _with_same_bytes(job: Job, result: Result, sources: Storage, outputs: Storage) -> Result | None:
    """The result with the job's modification times, if nothing else of the job changed and its output decodes."""
    recorded = {"source_mtime_ns": result.source_mtime_ns, "mask_mtime_ns": result.mask_mtime_ns}
    if job.model_copy(update=recorded).digest != result.digest:
        return None
    images = [(job.source, job.source_bytes, result.source_sha256), (job.mask, job.mask_bytes, result.mask_sha256)]
    size = result.output_bytes or 0
    try:
        for path, num_bytes, digest in images:
            if path is not None and hashlib.sha256(sources.read(path, num_bytes or 0)).hexdigest() != digest:
                return None
        decode_image(outputs.read(job.output, size), max_bytes=size, max_pixels=PILLOW_MAX_PIXELS)
    except (OSError, FileTooLarge, ImageError):
        return None
    current = {"source_mtime_ns": job.source_mtime_ns, "mask_mtime_ns": job.mask_mtime_ns, "digest": job.digest}
    return result.model_copy(update=current)


def _arrow_type(annotation: Any) -> pyarrow.DataType:
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return ARROW_TYPES[kinds[0]]
