"""How far the engine is from what the device allows: the least seconds a picture can take, and what it takes.

python -m benchmarks.floor --arch sd15 --size 256 --steps 10
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.architectures import Family, checkpoint_for
from benchmarks.ceiling import copy_rate, matrix_rates
from benchmarks.compare import CACHE, RESULTS
from benchmarks.machine import describe_machine, git_commit
from benchmarks.records import Device, Job, Machine, Options
from benchmarks.warm_up import warm_up
from benchmarks.ways import EngineWay
from benchmarks.work import Work, count_work
from benchmarks.workload import closed_loop, make_requests
from deployments.config import Strict
from deployments.engine.models.devices import DTYPES, bfloat16_gain
from deployments.engine.request import Img2ImgRequest

Format = Literal["float32", "bfloat16", "float16"]
console = Console(width=max(Console().width, 140))


class Floor(Strict):
    """One job in one number format. Rates are per second, `ours` is None where the engine was not run.

    `compute_s` is the picture's FLOPs over the best rate of any shape; `weights_s` is reading the UNet's weights once
    a step, shared by the clients. The floor is the longer of the two: only who multiplies less than the networks are
    defined by gets below it, as deployments/engine/accel/cpu/upsampling.py does.
    """

    size: int
    dtype: Format
    denoise_steps: int
    rows: int
    work: dict[str, int]
    flop_rates: dict[str, float]
    bytes_rate: float
    compute_s: float
    weights_s: float
    ours_s: float | None

    @property
    def floor_s(self) -> float:
        return max(self.compute_s, self.weights_s)


class FloorRecord(Strict):
    """A whole run. A `load_average` well above 0 at its start makes the ceilings too low, and the ratios with them."""

    date: str
    commit: str
    machine: Machine
    arch: str
    device: Device
    num_inference_steps: int
    strength: float
    guidance_scale: float
    clients: int
    images: int
    load_average: float
    floors: tuple[Floor, ...]


def main(
    arch: Annotated[str, typer.Option(help="sd15, sd21, sdxl or small.")] = "sd15",
    size: Annotated[list[int] | None, typer.Option(help="Sides of the pictures, in pixels; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(help="num_inference_steps")] = 20,
    strength: float = 0.5,
    guidance_scale: float = 7.5,
    clients: Annotated[int, typer.Option(help="That ask the engine at the same time.")] = 4,
    images: Annotated[int, typer.Option(help="That the engine makes for each job; 0: the floor alone.")] = 4,
    cache_dir: Annotated[Path, typer.Option(help="Where built checkpoints are kept for the next time.")] = CACHE,
    output_dir: Annotated[Path, typer.Option(help="Where the numbers go.")] = RESULTS,
) -> None:
    """Measure the device and the engine, print both and write them down."""
    if arch not in get_args(Family):
        raise typer.BadParameter(f"one of {', '.join(get_args(Family))}", param_hint="--arch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    record = FloorRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=git_commit(),
        machine=describe_machine(),
        arch=arch,
        device="cuda" if torch.cuda.is_available() else "cpu",
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=guidance_scale,
        clients=clients,
        images=images,
        load_average=os.getloadavg()[0],
        floors=(),
    )
    floors = [_floor(record, side, dtype, cache_dir) for side in size or [256] for dtype in _formats(record.device)]
    record = record.model_copy(update={"floors": tuple(floors)})
    show(record)
    output_dir.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in record.date[:19] if character.isalnum())
    target = output_dir / f"floor-{arch}-{record.device}-{stamp}.json"
    target.write_text(record.model_dump_json(indent=1))
    console.print(f"wrote {target}")


def _formats(device: Device) -> tuple[Format, ...]:
    """Those that the device computes in; a CPU that emulates bfloat16 is left its float32."""
    if device == "cuda":
        return "float16", "bfloat16"
    return ("float32", "bfloat16") if bfloat16_gain() else ("float32",)


def _floor(record: FloorRecord, size: int, dtype: Format, cache_dir: Path) -> Floor:
    family: Family = record.arch  # type: ignore[assignment]
    work = count_work(family, size)
    requests = _requests(record, size)
    steps, rows = requests[0].num_denoise_steps, 2 if record.guidance_scale > 1 else 1
    rates = matrix_rates(family, size, rows * record.clients, record.device, DTYPES[dtype])
    bandwidth = copy_rate(record.device)
    return Floor(
        size=size,
        dtype=dtype,
        denoise_steps=steps,
        rows=rows,
        work=work._asdict(),
        flop_rates=rates,
        bytes_rate=bandwidth,
        compute_s=work.image(steps, rows == 2) / max(rates.values()),
        weights_s=_weights_s(work, steps, record.clients, DTYPES[dtype], bandwidth),
        ours_s=asyncio.run(_ours(record, requests, size, dtype, cache_dir)) if record.images else None,
    )


def _weights_s(work: Work, steps: int, clients: int, dtype: torch.dtype, bandwidth: float) -> float:
    return steps * work.unet_weights * dtype.itemsize / bandwidth / clients


def _requests(record: FloorRecord, size: int) -> list[Img2ImgRequest]:
    options = Options(size=size, images=max(1, record.images))
    asked = {name: getattr(record, name) for name in ("num_inference_steps", "strength", "guidance_scale")}
    return [replace(request, **asked) for request in make_requests(options, "uniform", "closed")]


async def _ours(
    record: FloorRecord, requests: list[Img2ImgRequest], size: int, dtype: Format, cache_dir: Path
) -> float:
    """Seconds per picture of the engine in this process, `record.clients` requests at a time."""
    checkpoint = str(checkpoint_for(record.arch, cache_dir))
    options = Options(arch=record.arch, size=size, device=record.device, dtype=dtype, clients=record.clients)
    job = Job(way="engine", checkpoint=checkpoint, cache_dir=str(cache_dir), options=options, cells=())
    engine = EngineWay(job)
    await engine.open()
    try:
        await warm_up(engine.run, job)
        samples = await closed_loop(engine.run, requests, record.clients)
    finally:
        await engine.close()
    return max(sample.done for sample in samples) / len(samples)


def show(record: FloorRecord) -> None:
    """Print what the device can do, and each job."""
    rates = Table("shape", *(f"{floor.dtype}, {floor.size} px: GFLOP/s" for floor in record.floors))
    for shape in dict.fromkeys(shape for floor in record.floors for shape in floor.flop_rates):
        found = [floor.flop_rates.get(shape) for floor in record.floors]
        rates.add_row(shape, *("-" if rate is None else f"{rate / 1e9:.0f}" for rate in found))
    rates.add_row("copied GB/s", *(f"{floor.bytes_rate / 1e9:.1f}" for floor in record.floors))
    console.print(rates)
    title = f"{record.arch}: {record.num_inference_steps} steps, strength {record.strength:g}, "
    title += f"guidance {record.guidance_scale:g}, {record.clients} clients, {record.device}"
    title += f", load average {record.load_average:.1f} at the start"
    jobs = Table(
        "px", "numbers", "TFLOP", "compute s", "weights s", "floor s/image", "ours s/image", "x floor", title=title
    )
    for floor in record.floors:
        flops = Work(**floor.work).image(floor.denoise_steps, floor.rows == 2)
        seconds = (floor.compute_s, floor.weights_s, floor.floor_s)
        ours = ["-", "-"] if floor.ours_s is None else [f"{floor.ours_s:.2f}", f"{floor.ours_s / floor.floor_s:.2f}"]
        cells = (str(floor.size), floor.dtype, f"{flops / 1e12:.2f}", *(f"{value:.3g}" for value in seconds))
        jobs.add_row(*cells, *ours)
    console.print(jobs)


if __name__ == "__main__":
    typer.run(main)
