"""One line of results.jsonl: what was asked for one source image, and what came of it."""

from __future__ import annotations

from typing import Any, Self

from deployments.config import Strict
from deployments.schemas import Settings

RESULTS_FILE = "results.jsonl"


class Job(Strict):
    """One image to make: `source` and `output` are relative to the input and the output folder, with `/`."""

    source: str
    output: str
    settings: Settings


class Result(Strict):
    """The outcome of one job. `error_type` is None for a finished image; then width to denoise_s are set.

    `width` and `height` are the written image's; `total_s` is the wall time from reading to having written;
    `truncated` is the part of the prompts that the text encoder could not see.
    """

    source: str
    output: str | None = None
    model: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    sampler: str | None = None
    max_side: int | None = None
    width: int | None = None
    height: int | None = None
    num_denoise_steps: int | None = None
    truncated: str | None = None
    queued_s: float | None = None
    denoise_s: float | None = None
    total_s: float | None = None
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, job: Job, **facts: Any) -> Self:
        """The result of `job`: what was asked for, and the facts about how it went."""
        return cls(source=job.source, output=job.output, **job.settings.model_dump(), **facts)
