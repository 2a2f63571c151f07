"""What is asked for one output, and one line of results.jsonl: what was asked and what came of it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Self

from deployments.config import Strict
from deployments.schemas import Settings

RESULTS_FILE = "results.jsonl"
DIGEST_CHARS = 16


class Job(Strict):
    """One image to make: `source` and `mask` are relative to the input folder, `output` to the output folder, with `/`.

    `revision` is the checkpoint's. Sizes in bytes and modification times in ns are the storage's own; None is unknown.
    """

    source: str
    output: str
    settings: Settings
    revision: str | None = None
    source_bytes: int | None = None
    source_mtime_ns: int | None = None
    mask: str | None = None
    mask_bytes: int | None = None
    mask_mtime_ns: int | None = None

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over everything that decides the output, short of the pictures' own bytes."""
        everything = json.dumps(self.model_dump(exclude={"output"}, exclude_none=True), sort_keys=True)
        return hashlib.sha256(everything.encode()).hexdigest()[:DIGEST_CHARS]


class Result(Strict):
    """The outcome of one job. `error_type` is None for a finished image; then width to denoise_s are set.

    `width`, `height` and `output_bytes` are the written image's; `total_s` is the wall time from reading to having
    written; `truncated` is the part of the prompts that the text encoder could not see; `digest` is the job's, the two
    `_sha256` are of the files' bytes, and `finished_at` is ISO 8601 in UTC.
    """

    source: str
    output: str | None = None
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    sampler: str | None = None
    max_side: int | None = None
    loras: str | None = None
    source_bytes: int | None = None
    source_mtime_ns: int | None = None
    source_width: int | None = None
    source_height: int | None = None
    source_sha256: str | None = None
    mask: str | None = None
    mask_bytes: int | None = None
    mask_mtime_ns: int | None = None
    mask_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    output_bytes: int | None = None
    num_denoise_steps: int | None = None
    truncated: str | None = None
    queued_s: float | None = None
    denoise_s: float | None = None
    total_s: float | None = None
    attempts: int = 0
    digest: str | None = None
    finished_at: str | None = None
    error_type: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, job: Job, **facts: Any) -> Self:
        """The result of `job`, finished now: what was asked for, and the facts about how it went."""
        asked = job.model_dump(exclude={"settings"}) | job.settings.model_dump()
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(**(asked | {"digest": job.digest, "finished_at": finished_at} | facts))

    @property
    def key(self) -> str:
        """What the record keeps the last result of: the output, or the source of an image that never got one."""
        return self.source if self.output is None else self.output
