"""Opens one backend and measures it when its turn comes.

process.py starts it: `python -m benchmarks.compare.worker FOLDER`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
import typer

from benchmarks.backends.engine_backend import EngineBackend
from benchmarks.backends.in_process import RequestBackend
from benchmarks.backends.registry import backend_for
from benchmarks.backends.spec import OURS
from benchmarks.compare.process import JOB, MEASUREMENTS, READY, RESULT, images_file, is_my_turn
from benchmarks.compare.records import Cell, Job, Measurement
from benchmarks.compare.warm_up import warm_up
from benchmarks.compare.workload import Sample, closed_loop, make_requests, open_loop
from benchmarks.machine import ask_gpu
from deployments.engine.request import Img2ImgRequest

KIB = 1024


def main(folder: Path) -> None:
    """Do the folder's job and write its measurements there."""
    job = Job.model_validate_json((folder / JOB).read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    measurements = asyncio.run(_measure_all(job, folder))
    (folder / RESULT).write_bytes(MEASUREMENTS.dump_json(measurements))


async def _measure_all(job: Job, folder: Path) -> list[Measurement]:
    backend, ours = backend_for(job.spec), job.spec.backend in OURS
    await backend.open()
    try:
        if not ours:
            await warm_up(backend.run, job)
        (folder / READY).touch()
        mine = await asyncio.to_thread(is_my_turn)
        if ours and mine:  # the engine measures its steps meanwhile: not beside other backends
            await warm_up(backend.run, job)
        return [await _measure(backend, job, cell, folder) for cell in job.cells if mine]
    finally:
        await backend.close()


async def _measure(backend: RequestBackend, job: Job, cell: Cell, folder: Path) -> Measurement:
    requests = make_requests(job.options, cell.settings, cell.mode, cell.repeat)
    load_average = os.getloadavg()[0]
    samples = await _send(backend, cell, requests)
    np.save(images_file(folder, cell), np.stack([sample.pixels for sample in samples]))
    peaks = _peak_bytes()
    return Measurement(
        backend=job.spec.backend,
        settings=cell.settings,
        mode=cell.mode,
        dtype=backend.dtype,
        seconds=max(sample.done for sample in samples) - min(sample.due for sample in samples),
        latencies=tuple(sample.latency for sample in samples),
        model_bytes=max(peaks),
        all_bytes=sum(peaks),
        gpu_bytes=None if job.options.together else _gpu_bytes(),  # other processes hold a part too
        load_average=load_average,
        step_times=backend.step_times() if isinstance(backend, EngineBackend) else {},
    )


async def _send(backend: RequestBackend, cell: Cell, requests: list[Img2ImgRequest]) -> list[Sample]:
    if cell.arrivals is None:
        return await closed_loop(backend.run, requests, cell.clients)
    return await open_loop(backend.run, requests, cell.arrivals)


def _peak_bytes() -> list[int]:
    """Peak resident memory of this process and of all its descendants, so far."""
    own = psutil.Process()
    return [_peak(process.pid) for process in (own, *own.children(recursive=True))]


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():  # not Linux: the present size, after the work
        return int(psutil.Process(pid).memory_info().rss) if psutil.pid_exists(pid) else 0
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) * KIB


def _gpu_bytes() -> int | None:
    """What the driver has given out of the first GPU: torch keeps its peak, so no other process may use it."""
    used = ask_gpu("memory.used")
    return None if used is None else int(used) * KIB**2


if __name__ == "__main__":
    typer.run(main)
