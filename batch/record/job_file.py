"""job.json in the output folder: the input that its results are made from."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Self

from pydantic import BaseModel, ValidationError

from batch.storage.storage import FileTooLarge, Storage

JOB_FILE = "job.json"
MAX_BYTES = 100_000


class JobRecord(BaseModel):
    """`input` is the full address of the input folder, without credentials. Fields of later versions are ignored.

    `relative` is its path from the output if both are local, so that both may move together.
    """

    input: str
    relative: str | None = None

    @classmethod
    def of(cls, inputs: Storage, outputs: Storage) -> Self:
        """The record of a job."""
        relative = None
        if inputs.local is not None and outputs.local is not None:
            relative = os.path.relpath(inputs.local.resolve(), outputs.local.resolve())
        return cls(input=inputs.full_address, relative=relative)

    def is_same(self, other: JobRecord) -> bool:
        """Whether both have one input."""
        return self.input == other.input or (self.relative is not None and self.relative == other.relative)


def recorded_job(outputs: Storage) -> JobRecord | None:
    """The record in the output, None without a legible one. Raises OSError."""
    with suppress(FileNotFoundError, FileTooLarge, ValidationError):
        return JobRecord.model_validate_json(outputs.read(JOB_FILE, MAX_BYTES))
    return None


def record_job(inputs: Storage, outputs: Storage) -> None:
    """Write the record, if it is not there yet. Raises OSError."""
    record = JobRecord.of(inputs, outputs)
    if recorded_job(outputs) != record:
        outputs.write(JOB_FILE, record.model_dump_json().encode() + b"\n")
