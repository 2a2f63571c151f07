"""Opens one way and measures it when its turn comes.

What processes.py starts: `python -m benchmarks.measure FOLDER`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
import typer

from benchmarks.processes import JOB, MEASUREMENTS, READY, RESULT, is_my_turn, pictures_file
from benchmarks.records import OURS, Cell, Job, Measurement
from benchmarks.runners import runner_for
from benchmarks.warm_up import warm_up
from benchmarks.ways import EngineWay, WayRunner
from benchmarks.workload import Sample, closed_loop, make_requests, open_loop
from deployments.engine.request import Img2ImgRequest

KIB = 1024


def main(folder: Path) -> None:
    """Do the folder's job and write what came of it there."""
    job = Job.model_validate_json((folder / JOB).read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    measurements = asyncio.run(_measure_all(job, folder))
    (folder / RESULT).write_bytes(MEASUREMENTS.dump_json(measurements))


async def _measure_all(job: Job, folder: Path) -> list[Measurement]:
    way = runner_for(job)
    await way.open()
    try:
        if job.way not in OURS:
            await warm_up(way.run, job)
        (folder / READY).touch()
        mine = await asyncio.to_thread(is_my_turn)
        if job.way in OURS and mine:  # they measure their steps meanwhile: not beside others
            await warm_up(way.run, job)
        return [await _measure(way, job, cell, folder) for cell in job.cells if mine]
    finally:
        await way.close()


async def _measure(way: WayRunner, job: Job, cell: Cell, folder: Path) -> Measurement:
    requests = make_requests(job.options, cell.settings, cell.mode)
    load_average = os.getloadavg()[0]
    samples = await _send(way, cell, requests)
    np.save(pictures_file(folder, cell), np.stack([sample.pixels for sample in samples]))
    peaks = _peak_bytes()
    return Measurement(
        way=job.way,
        settings=cell.settings,
        mode=cell.mode,
        dtype=way.dtype,
        seconds=max(sample.done for sample in samples) - min(sample.due for sample in samples),
        latencies=tuple(sample.latency for sample in samples),
        denoise_steps=tuple(request.num_denoise_steps for request in requests),
        model_bytes=max(peaks),
        all_bytes=sum(peaks),
        gpu_bytes=None if job.options.together else _gpu_bytes(),  # which others hold too
        load_average=load_average,
        step_times=way.step_times(job.options.size) if isinstance(way, EngineWay) else {},
    )


async def _send(way: WayRunner, cell: Cell, requests: list[Img2ImgRequest]) -> list[Sample]:
    if cell.arrivals is None:
        return await closed_loop(way.run, requests, cell.clients)
    return await open_loop(way.run, requests, cell.arrivals)


def _peak_bytes() -> list[int]:
    """Peak resident memory of this process and of all that it started, so far."""
    own = psutil.Process()
    return [_peak(process.pid) for process in (own, *own.children(recursive=True))]


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():  # not Linux: what it holds now, after the work
        return int(psutil.Process(pid).memory_info().rss) if psutil.pid_exists(pid) else 0
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) * KIB


def _gpu_bytes() -> int | None:
    """What the driver has given out of the first GPU: torch keeps its peak, so no other process may use it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) * KIB**2


if __name__ == "__main__":
    typer.run(main)
