"""The job of one output, and its result as one line of results.jsonl."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import ConfigDict

from deployments.config import Strict
from deployments.schemas import Settings

RESULTS_FILE = "results.jsonl"
DIGEST_CHARS = 16


class Job(Strict):
    """One image to make. `source` and `mask` are relative to the input folder, `output` to the output folder, with `/`.

    `revision` is the checkpoint's. Sizes are in bytes, modification times in ns, as the storage lists them, or None.
    `strip` leaves the source's EXIF out of the result.
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
    strip: Literal[True] | None = None

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over everything that decides the output except the bytes of the images."""
        everything = json.dumps(self.model_dump(exclude={"output"}, exclude_none=True), sort_keys=True)
        return hashlib.sha256(everything.encode()).hexdigest()[:DIGEST_CHARS]


class Result(Strict):
    """The outcome of one job. A finished image has no `error_type`, and its width to denoise_s are set.

    `width`, `height` and `output_bytes` describe the written image. `total_s` is the wall time from reading to writing.
    `truncated` is the part of the prompts that the text encoder cut off. `digest` is the job's. The two `_sha256` are
    over the bytes of the files. `finished_at` is ISO 8601 in UTC. Fields of a later version are kept.
    """

    model_config = ConfigDict(extra="allow")

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
        """The result of `job`, finished now: its settings and the `facts` of the run."""
        requested = job.model_dump(exclude={"settings", "strip"}) | job.settings.model_dump()
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(**(requested | {"digest": job.digest, "finished_at": finished_at} | facts))

    @property
    def key(self) -> str:
        """What the ledger keeps one result of: the output, or the source of an image without an output."""
        return self.source if self.output is None else self.output
