"""The folder job: makes images of source images with the served models and Ray Data, and resumes earlier runs.

    python -m batch.run_folder --input photos --output paintings --prompt "in the style of picasso"

Exit codes: 0 all done, 1 some images, the storage or the Ray cluster failed, 2 bad usage, or another job writes to the
output, 3 stopped at the deadline, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import typer
from ray.exceptions import RayError

from batch import options as cli
from batch import program
from batch.cluster import App, find_app
from batch.display import CONSOLE, LISTED_FAILURES, Counts, failure_text
from batch.planning.checkpoint_hash import with_checkpoint_hashes
from batch.planning.plan import plan
from batch.planning.remaining_work import RemainingWork, find_remaining_work
from batch.planning.sources import SourceListing, check_found, find_sources, read_prompts
from batch.planning.sweep import Sweep
from batch.record.job_file import record_job
from batch.record.ledger import Ledger
from batch.running.dry_run import estimate
from batch.running.job import FolderJob, Outcome
from batch.running.output import check_input, lock_output, open_output
from batch.running.worker import ImageWorker
from batch.storage.lock import Lock
from batch.storage.storage import Storage
from deployments.config import AppConfig
from deployments.schemas import Img2ImgOptions


def main(
    input: cli.Input = str(cli.INPUT_FOLDER),
    output: cli.Output = str(cli.OUTPUT_FOLDER),
    manifest: cli.Manifest = None,
    config: cli.ServeConfig = cli.SERVE_CONFIG,
    app_name: cli.AppName = cli.APP_NAME,
    prompt: cli.Prompt = None,
    prompts_file: cli.PromptsFile = None,
    negative_prompt: cli.NegativePrompt = None,
    model: cli.Models = None,
    strength: cli.Strengths = None,
    guidance_scale: cli.GuidanceScales = None,
    num_inference_steps: cli.StepCounts = None,
    seed: cli.SeedList = None,
    seeds: cli.Seeds = 1,
    sampler: cli.Samplers = None,
    max_side: cli.MaxSides = None,
    loras: cli.Loras = None,
    output_format: cli.OutputFormat = None,
    concurrency: cli.Concurrency = 16,
    recursive: cli.Recursive = True,
    strip: cli.Strip = False,
    overwrite: cli.Overwrite = False,
    retry_failed: cli.RetryFailed = False,
    verify: cli.Verify = False,
    deadline: cli.Deadline = None,
    dry_run: cli.DryRun = False,
) -> None:
    """Make one or several images of every source image. Run the same command again to resume a stopped job.

    Without --model and --prompt each source image gets its own, drawn from the app's lists by its path, so that a
    second run draws the same. Every result has its settings in its name and file, and a line in results.jsonl.
    """
    if prompt is not None and prompts_file is not None:
        raise typer.BadParameter("cannot be combined with --prompt", param_hint="--prompts-file")
    options = cli.image_options(
        prompt=prompt, negative_prompt=negative_prompt, loras=loras, output_format=output_format
    )
    swept = {
        "model": model,
        "strength": strength,
        "guidance_scale": guidance_scale,
        "num_inference_steps": num_inference_steps,
        "seed": seed,
        "sampler": sampler,
        "max_side": max_side,
    }
    with cli.usage_errors():
        sweep = Sweep.parse(swept, seeds)
        prompts = None if prompts_file is None else read_prompts(prompts_file)
        listing = find_sources(input, manifest, recursive=recursive)
        outputs = open_output(output, listing.storage)
        check_found(listing)
    _print_listing(listing)
    spec = JobSpec(listing, outputs, options, sweep, prompts, strip, overwrite, retry_failed, verify)
    with (
        cli.usage_errors(),
        find_app(config, app_name, CONSOLE.print) as app,
        _one_line_failure(overwrite),
        nullcontext(Lock()) if dry_run else lock_output(outputs) as lock,
    ):
        if not overwrite:
            check_input(listing.storage, outputs)
        job = spec.job(app.config, lock)
        if dry_run:
            estimate(job.work.todo, job.inputs, app.config.limits, lambda: _worker(app, job), concurrency)
            return
        outcome, counts = _run(job, app, concurrency, deadline)
    raise typer.Exit(_print_end(job.work, outcome, counts, overwrite))


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The job that the command line requests, checked as far as that is possible without the app."""

    listing: SourceListing
    outputs: Storage
    options: Img2ImgOptions
    sweep: Sweep
    prompts: tuple[str, ...] | None
    strip: bool
    overwrite: bool
    retry_failed: bool
    verify: bool

    def job(self, config: AppConfig, lock: Lock) -> FolderJob:
        """The job without the work of earlier runs. Raises InvalidRequest for what the app does not allow, OSError."""
        config = with_checkpoint_hashes(config)
        if self.prompts is not None:
            config = config.model_copy(update={"prompts": self.prompts})
        output_format = self.options.output_format if "output_format" in self.options.model_fields_set else None
        planned = plan(self.listing.sources, self.options, self.sweep, output_format, config)
        if self.strip:
            planned = replace(planned, jobs=[job.model_copy(update={"strip": True}) for job in planned.jobs])
        ledger = Ledger(self.outputs)
        work = find_remaining_work(
            self.listing,
            planned,
            ledger,
            self.outputs,
            overwrite=self.overwrite,
            retry_failed=self.retry_failed,
            verify=self.verify,
        )
        _print_remaining_work(work, planned.num_duplicates)
        return FolderJob(work, self.listing.storage, self.outputs, ledger, lock)


def _run(job: FolderJob, app: App, concurrency: int, deadline: float | None) -> tuple[Outcome, Counts]:
    """Run the job, and start no image after `deadline` minutes. Without anything to do no app is started."""
    record_job(job.inputs, job.outputs)
    outcome, counts = Outcome.DONE, Counts()
    if job.work.todo:
        outcome, counts = job.run(_worker(app, job), concurrency, None if deadline is None else 60 * deadline)
    job.finish()
    return outcome, counts


@contextmanager
def _one_line_failure(overwrite: bool) -> Iterator[None]:
    """Report a failed storage or Ray cluster in one line, without a traceback, and exit with 1.

    To be used inside `find_app`: with a dead cluster, Ray may end this program while the app is being stopped.
    """
    try:
        yield
    except (OSError, RayError) as error:
        *_, reason = str(error).rstrip().split("\n")  # Ray puts it last
        CONSOLE.print(f"Stopped: {type(error).__name__}: {reason}. {_how_to_resume(overwrite)}")
        raise typer.Exit(1) from error


def _worker(app: App, job: FolderJob) -> ImageWorker:
    router = app.router_for({each.settings.model for each in job.work.todo})
    return ImageWorker(router, app.config.limits, job.inputs, job.outputs)


def _print_listing(listing: SourceListing) -> None:
    num_images = len(listing.sources) + len(listing.failures)
    CONSOLE.print(f"{num_images} images in {listing.storage}; {listing.num_ignored} other files ignored")
    for problem in listing.problems[:LISTED_FAILURES]:
        CONSOLE.print(problem)


def _print_remaining_work(work: RemainingWork, num_duplicates: int) -> None:
    CONSOLE.print(f"{len(work.todo)} to make, {len(work.done) - len(work.failed_before)} done before")
    if num_duplicates:
        CONSOLE.print(f"{num_duplicates} duplicates skipped")
    if work.failed_before:
        CONSOLE.print(f"{len(work.failed_before)} failed in earlier runs (--retry-failed to retry)")
    for result in [*work.failures, *work.failed_before][:LISTED_FAILURES]:
        CONSOLE.print(failure_text(result))


def _print_end(work: RemainingWork, outcome: Outcome, counts: Counts, overwrite: bool) -> int:
    """Print a summary and return the exit code."""
    if work.todo:
        CONSOLE.print(counts.table())
    if outcome is not Outcome.DONE:
        CONSOLE.print(f"{outcome}. {_how_to_resume(overwrite)}")
    num_failed = counts.failed.total() + len(work.failures) + len(work.failed_before)
    num_done = counts.done.total() + len(work.done) - len(work.failed_before)
    CONSOLE.print(f"{num_done} of {work.total} images done, {num_failed} failed")
    return outcome.value or int(num_failed > 0)


def _how_to_resume(overwrite: bool) -> str:
    return f"Run the same command to {'start over' if overwrite else 'resume'}"


def command() -> None:
    """The command's entry point."""
    program.run(main)


if __name__ == "__main__":
    command()
