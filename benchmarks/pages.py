"""What the kernel's pages cost a VAE: SD1.5's size at 512 px by NNPACK, as processes start, with large pages, with
freed memory kept. Seconds a picture, the processor's seconds in the kernel among them, the most memory held.

python -m benchmarks.pages > benchmarks/results/pages.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from resource import RUSAGE_SELF, getrusage
from typing import Any

from benchmarks.machine import describe_machine, git_commit
from deployments.config import REPO_ROOT
from deployments.environment import LARGE_PAGES

PROCESSES, PICTURES, SIDE = 2, 3, 512
MANNERS: dict[str, dict[str, str]] = {
    "as processes start": {},
    "large pages (ours)": LARGE_PAGES,
    "freed memory kept": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
    },
}
Picture = dict[str, float]  # of one picture: what is measured, and how much


def main() -> None:
    """Measure each manner in turn, `PROCESSES` times, and print medians as JSON."""
    pictures: dict[str, list[Picture]] = {name: [] for name in MANNERS}
    for _ in range(PROCESSES):
        for name, environment in MANNERS.items():
            command = [sys.executable, "-m", "benchmarks.pages", "work"]
            done = subprocess.run(
                command, cwd=REPO_ROOT, env=os.environ | environment, check=True, stdout=subprocess.PIPE
            )
            pictures[name] += json.loads(done.stdout.splitlines()[-1])
    facts: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    facts |= {"machine": describe_machine().model_dump()}
    print(json.dumps(facts | {name: _medians(measured) for name, measured in pictures.items()}, indent=1))


def _medians(pictures: list[Picture]) -> Picture:
    return {key: round(statistics.median(picture[key] for picture in pictures), 2) for key in pictures[0]}


def work() -> None:
    """Encode and decode `PICTURES`, after one that is not counted, and print what each took as JSON."""
    import torch
    from diffusers import AutoencoderKL

    from benchmarks.architectures import VAE
    from deployments.engine import nnpack

    assert nnpack.is_available(), "NNPACK is not used on this processor"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    vae = nnpack.nnpack_vae(AutoencoderKL(**VAE).eval())
    picture, latents = torch.randn(1, 3, SIDE, SIDE), torch.randn(1, 4, SIDE // 8, SIDE // 8)
    pictures: list[Picture] = []

    @torch.inference_mode()
    def run() -> None:
        for _ in range(1 + PICTURES):
            started, in_kernel = time.perf_counter(), getrusage(RUSAGE_SELF).ru_stime
            vae.encode(picture)
            encoded = time.perf_counter()
            vae.decode(latents)
            decoded, usage = time.perf_counter(), getrusage(RUSAGE_SELF)
            seconds = {"encode_s": encoded - started, "decode_s": decoded - encoded}
            pictures.append(seconds | {"kernel_s": usage.ru_stime - in_kernel, "peak_mb": usage.ru_maxrss / 1024})

    engine = threading.Thread(target=run)  # the C library manages memory per thread, and the main one's differently
    engine.start()
    engine.join()
    print(json.dumps(pictures[1:]))


if __name__ == "__main__":
    work() if len(sys.argv) > 1 else main()
