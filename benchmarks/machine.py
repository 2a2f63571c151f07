"""Where a measurement was taken: processor, GPU, software, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from deployments.config import REPO_ROOT, Strict

PACKAGES = ("torch", "diffusers", "transformers", "ray")
UNKNOWN = "unknown"  # the commit, where there is no git
# What publishing itself changes: one record after another is written from the same commit.
PUBLISHED = (":!benchmarks/results", ":!docs/benchmarks.md")


class Machine(Strict):
    """Hardware and software of a measurement."""

    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None
    versions: dict[str, str]


def describe_machine() -> Machine:
    """This machine, and the versions of Python and PACKAGES."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 1024**3, 1),
        gpu=ask_gpu("name"),
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the backends in process need no Ray
        return "not installed"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def ask_gpu(field: str) -> str | None:
    """What nvidia-smi says of the first GPU; None without one. A question to torch would take memory of the GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def git_commit() -> str:
    """The checked-out commit; "unknown" without git.

    " + changes" is added if tracked files differ from it, or there is a Python file that git does not know.
    """
    if not (REPO_ROOT / ".git").exists():
        return UNKNOWN
    changes = _git("status", "--porcelain", "-uno", "--", ".", *PUBLISHED)
    unknown = _git("ls-files", "--others", "--exclude-standard", "--", "*.py")
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{commit} + changes" if changes or unknown else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPO_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
