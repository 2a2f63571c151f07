"""Writes docs/benchmarks.md from benchmarks/page/frame.md and the records of benchmarks/results.

python -m benchmarks.page
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from benchmarks.page import tables
from benchmarks.publishing import RESULTS, console
from deployments.config import REPO_ROOT

FRAME = Path(__file__).parent / "frame.md"
PAGE = REPO_ROOT / "docs" / "benchmarks.md"
TABLES = (
    tables.in_process,
    tables.over_http,
    tables.queueing,
    tables.overhead,
    tables.startup,
    tables.roofline,
    tables.folder,
    tables.gpu_round,
    tables.sources,
)


def page(results: Path = RESULTS) -> str:
    """The page's Markdown. Each `$name` of the frame is the table of that name."""
    return Template(FRAME.read_text()).substitute({make.__name__: make(results) for make in TABLES})


if __name__ == "__main__":
    PAGE.write_text(page())
    console.print(f"wrote {PAGE}")
