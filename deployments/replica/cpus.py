"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> int:
    """The CPUs of its affinity, and no more than the quotas of its container, rounded up."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([here, *_quotas(cgroups, own_cgroup)])))


def _quotas(cgroups: Path, own_cgroup: Path) -> Iterator[float]:
    """CPUs, of this process's control group and of those around it; version 1 has them in two files."""
    own = own_cgroup.read_text().rpartition("0::")[2].strip() if own_cgroup.exists() else ""
    folder = cgroups / own.lstrip("/")
    for group in (folder, *folder.parents):
        if group.is_relative_to(cgroups) and (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
            yield math.inf if quota == "max" else int(quota) / int(period)
    old = cgroups / "cpu"
    if (old / "cpu.cfs_quota_us").is_file():
        quota, period = ((old / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        yield int(quota) / int(period) if int(quota) > 0 else math.inf
