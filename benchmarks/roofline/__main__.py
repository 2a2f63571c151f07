"""How far the engine is from what the device allows: the least seconds an image can take, and what it takes.

python -m benchmarks.roofline --arch sd15 --size 256 --steps 10
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import torch
import typer
from rich.table import Table

from benchmarks.architectures import Family, checkpoint_for
from benchmarks.backends.engine_backend import EngineBackend
from benchmarks.backends.spec import Device
from benchmarks.compare.records import Job, Options
from benchmarks.compare.warm_up import warm_up
from benchmarks.compare.workload import closed_loop, make_requests
from benchmarks.publishing import (
    CACHE,
    RESULTS,
    OutputDir,
    Scratch,
    console,
    provenance,
    write_record,
)
from benchmarks.roofline.peak import copy_rate, matrix_rates
from benchmarks.roofline.records import Dtype, Roofline, RooflineRecord
from benchmarks.roofline.work import Work, count_work
from deployments.engine.models.devices import DTYPES, bfloat16_gain
from deployments.engine.request import Img2ImgRequest


def main(
    arch: Annotated[str, typer.Option(help="sd15, sd21, sdxl or small.")] = "sd15",
    size: Annotated[list[int] | None, typer.Option(help="Sides of the images, in pixels; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(help="num_inference_steps")] = 20,
    strength: float = 0.5,
    guidance_scale: float = 7.5,
    clients: Annotated[int, typer.Option(help="Clients of the engine at the same time.")] = 4,
    images: Annotated[int, typer.Option(help="Images of the engine in each round; 0: the roofline alone.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="How often the engine makes the images.")] = 3,
    cache_dir: Annotated[Path, typer.Option(help="Folder that keeps built checkpoints.")] = CACHE,
    output_dir: OutputDir = RESULTS,
    scratch: Scratch = False,
) -> None:
    """Measure the device and the engine, print both and write a record."""
    if arch not in get_args(Family):
        raise typer.BadParameter(f"one of {', '.join(get_args(Family))}", param_hint="--arch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = size or [256]
    command = f"python -m benchmarks.roofline --arch {arch} {' '.join(f'--size {side}' for side in sizes)} "
    command += f"--steps {steps} --strength {strength:g} --guidance-scale {guidance_scale:g} "
    command += f"--clients {clients} --images {images} --rounds {rounds}"
    record = RooflineRecord(
        **provenance(command, output_dir, scratch=scratch),
        arch=arch,
        device="cuda" if torch.cuda.is_available() else "cpu",
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=guidance_scale,
        clients=clients,
        images=images,
        rounds=rounds,
        load_average=os.getloadavg()[0],
    )
    found = tuple(_roofline(record, side, dtype, cache_dir) for side in sizes for dtype in _dtypes(record.device))
    record = record.model_copy(update={"rooflines": found})
    show(record)
    name = f"roofline-{arch}-{'-'.join(map(str, sizes))}px-{record.device}"
    write_record(record, name, output_dir, scratch=scratch, rounds=rounds, images=images)


def _dtypes(device: Device) -> tuple[Dtype, ...]:
    """The dtypes that the device computes in; a CPU that emulates bfloat16 has float32 alone."""
    if device == "cuda":
        return "float16", "bfloat16"
    return ("float32", "bfloat16") if bfloat16_gain() else ("float32",)


def _roofline(record: RooflineRecord, size: int, dtype: Dtype, cache_dir: Path) -> Roofline:
    family: Family = record.arch  # type: ignore[assignment]
    work = count_work(family, size)
    requests = _requests(record, size)
    steps, rows = requests[0].num_denoise_steps, 2 if record.guidance_scale > 1 else 1
    rates = matrix_rates(family, size, rows * record.clients, record.device, DTYPES[dtype])
    bandwidth = copy_rate(record.device)
    return Roofline(
        size=size,
        dtype=dtype,
        denoise_steps=steps,
        rows=rows,
        work=work._asdict(),
        flop_rates=rates,
        bytes_rate=bandwidth,
        compute_s=work.image(steps, rows == 2) / max(rates.values()),
        weights_s=steps * work.unet_weights * DTYPES[dtype].itemsize / bandwidth / record.clients,
        engine_s=asyncio.run(_engine(record, requests, size, dtype, cache_dir)) if record.images else (),
    )


def _requests(record: RooflineRecord, size: int) -> list[Img2ImgRequest]:
    options = Options(size=size, images=max(1, record.images))
    settings = {name: getattr(record, name) for name in ("num_inference_steps", "strength", "guidance_scale")}
    return [replace(request, **settings) for request in make_requests(options, "uniform", "closed")]


async def _engine(
    record: RooflineRecord, requests: list[Img2ImgRequest], size: int, dtype: Dtype, cache_dir: Path
) -> tuple[float, ...]:
    """Seconds per image of the engine in this process, `record.clients` requests at a time, for each round."""
    options = Options(arch=record.arch, size=size, device=record.device, dtype=dtype, clients=record.clients)
    spec = options.spec("engine", checkpoint_for(record.arch, cache_dir), cache_dir)
    engine = EngineBackend(spec)
    await engine.open()
    try:
        await warm_up(engine.run, Job(spec=spec, options=options, cells=()))
        seconds = []
        for number in range(record.rounds):
            fresh = [
                replace(request, pixels=request.pixels ^ np.uint8(number)) for request in requests
            ]  # nothing cached
            samples = await closed_loop(engine.run, fresh, record.clients)
            seconds.append(max(sample.done for sample in samples) / len(samples))
    finally:
        await engine.close()
    return tuple(seconds)


def show(record: RooflineRecord) -> None:
    """Print the device's peaks, and each job beside its roofline."""
    rates = Table("shape", *(f"{found.dtype}, {found.size} px: GFLOP/s" for found in record.rooflines))
    for shape in dict.fromkeys(shape for found in record.rooflines for shape in found.flop_rates):
        values = [found.flop_rates.get(shape) for found in record.rooflines]
        rates.add_row(shape, *("-" if rate is None else f"{rate / 1e9:.0f}" for rate in values))
    rates.add_row("copied GB/s", *(f"{found.bytes_rate / 1e9:.1f}" for found in record.rooflines))
    title = f"{record.arch}: {record.num_inference_steps} steps, strength {record.strength:g}, "
    title += f"guidance {record.guidance_scale:g}, {record.clients} clients, {record.device}"
    title += f", load average {record.load_average:.1f} at the start"
    jobs = Table("px", "dtype", "TFLOP", "compute s", "weights s", "roofline s", "engine s/image", "x", title=title)
    for found in record.rooflines:
        flops = Work(**found.work).image(found.denoise_steps, found.rows == 2)
        seconds = (found.compute_s, found.weights_s, found.least_s)
        engine = (
            ["-", "-"] if found.engine is None else [str(found.engine), f"{found.engine.median / found.least_s:.2f}"]
        )
        jobs.add_row(str(found.size), found.dtype, f"{flops / 1e12:.2f}", *(f"{s:.3g}" for s in seconds), *engine)
    console.print(rates, jobs)


if __name__ == "__main__":
    typer.run(main)
