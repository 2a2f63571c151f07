"""The output folder of a job: what it must not be, who may write to it, and whose results are in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from batch.display import CONSOLE
from batch.planning.locations import open_folder
from batch.record.job_file import JOB_FILE, JobRecord, recorded_job
from batch.storage.lock import Lock, OutputInUse, output_lock
from batch.storage.storage import Storage, overlap
from deployments.engine.errors import InvalidRequest


def open_output(uri: str, inputs: Storage) -> Storage:
    """The storage for the results of `inputs`. Raises InvalidRequest."""
    outputs = open_folder(uri, "output")
    if overlap(inputs, outputs):
        raise InvalidRequest(
            f"{str(outputs)!r} and the input folder {str(inputs)!r} must be outside each other", "output"
        )
    if outputs.local is not None and outputs.local.exists() and not outputs.local.is_dir():
        raise InvalidRequest(f"{str(outputs)!r} is not a folder", "output")
    return outputs


@contextmanager
def lock_output(outputs: Storage) -> Iterator[Lock]:
    """The lock of the output. Raises InvalidRequest if another job holds it, OSError."""
    try:
        with output_lock(outputs, CONSOLE.print) as lock:
            yield lock
    except OutputInUse as error:
        raise InvalidRequest(str(error), "output") from error


def check_input(inputs: Storage, outputs: Storage) -> None:
    """Raises InvalidRequest if the results in `outputs` are recorded as those of another input, OSError.

    Results are named by paths relative to the input, so those of two inputs would replace each other.
    """
    recorded, job = recorded_job(outputs), JobRecord.of(inputs, outputs)
    if recorded is not None and not recorded.is_same(job):
        raise InvalidRequest(
            f"{str(outputs)!r} holds the results of {recorded.input!r}, not of {job.input!r}. Use another output,"
            f" or --overwrite. If the input was moved, delete {JOB_FILE} in the output",
            "output",
        )
