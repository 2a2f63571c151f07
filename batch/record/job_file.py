"""job.json in the output folder: the input that its results are made from."""

from __future__ import annotations

from contextlib import suppress

from pydantic import BaseModel, ValidationError

from batch.storage.storage import FileTooLarge, Storage

JOB_FILE = "job.json"
MAX_BYTES = 100_000


class JobRecord(BaseModel):
    """`input` is the full address of the input folder, without credentials. Fields of later versions are ignored."""

    input: str


def recorded_input(outputs: Storage) -> str | None:
    """The address of the input, None without a legible record. Raises OSError."""
    with suppress(FileNotFoundError, FileTooLarge, ValidationError):
        return JobRecord.model_validate_json(outputs.read(JOB_FILE, MAX_BYTES)).input
    return None


def record_input(outputs: Storage, inputs: Storage) -> None:
    """Write the record, if it is not there yet. Raises OSError."""
    if recorded_input(outputs) != inputs.full_address:
        outputs.write(JOB_FILE, JobRecord(input=inputs.full_address).model_dump_json().encode() + b"\n")
