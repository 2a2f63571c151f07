"""The jobs of a plan that earlier runs have not done, and the results of those that they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from batch.planning.plan import Plan
from batch.planning.sources import SourceListing
from batch.record.ledger import Ledger
from batch.record.results import Job, Result
from batch.storage.storage import FileInfo, Storage


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The jobs `todo`, the results `done` by earlier runs (failed ones too), and `failures` before any request."""

    todo: list[Job]
    done: list[Result]
    failures: list[Result]

    @property
    def total(self) -> int:
        """The number of results at the end of the run."""
        return len(self.todo) + len(self.done) + len(self.failures)

    @property
    def failed_before(self) -> list[Result]:
        return [result for result in self.done if result.error_type]

    def todo_by_model(self) -> dict[str, int]:
        """The number of images to make by model, largest first."""
        return dict(Counter(job.settings.model for job in self.todo).most_common())


def find_remaining_work(
    listing: SourceListing,
    plan: Plan,
    ledger: Ledger,
    outputs: Storage,
    *,
    overwrite: bool,
    retry_failed: bool,
    verify: bool,
) -> RemainingWork:
    """Compare the plan with the ledger and with one listing of the output. Raises OSError."""
    todo, done = plan.jobs, list[Result]()
    if not overwrite:
        sources = listing.storage if verify else None
        todo, done = ledger.done(plan.jobs, _list(outputs), retry_failed=retry_failed, verify=sources)
    return RemainingWork(todo, done, [*listing.failures, *plan.failures])


def _list(outputs: Storage) -> Iterable[FileInfo]:
    try:
        return list(outputs.files())
    except FileNotFoundError:
        return []
