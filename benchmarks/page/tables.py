"""The tables of docs/benchmarks.md, one Markdown line for each workload of the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.backends.spec import OURS, Backend
from benchmarks.compare.records import Mode, Record
from benchmarks.compare.summary import Row, cells, rows
from benchmarks.folder.bounds import FolderRecord
from benchmarks.gpu_round.records import RoundRecord
from benchmarks.publishing import PublishedRecord
from benchmarks.roofline.records import RooflineRecord
from benchmarks.service.overhead import OverheadRecord
from benchmarks.service.startup import StartupRecord
from benchmarks.spread import spread, tail_name

R = TypeVar("R", bound=PublishedRecord)
IN_PROCESS: tuple[Backend, ...] = ("script", "batch", "diffusers_best", "openvino", "openvino_bf16", "sdcpp", "engine")
OVER_HTTP: tuple[Backend, ...] = ("script", "engine", "service", "service_fast")
NO_RECORD = "No record yet."


def load(results: Path, kind: type[R], pattern: str) -> list[R]:
    """The records that `pattern` matches, in the order of their names."""
    return [kind.model_validate_json(file.read_text()) for file in sorted(results.glob(f"{pattern}.json"))]


def in_process(results: Path) -> str:
    """Images per second of the backends in process, in closed loops."""
    return _rates(results, IN_PROCESS, lambda found: "engine" in found)


def over_http(results: Path) -> str:
    """Images per second of the service, beside the engine's and the script's."""
    return _rates(results, OVER_HTTP, lambda found: "service" in found or "service_fast" in found)


def queueing(results: Path) -> str:
    """Slowdowns under Poisson arrivals."""

    def text(row: Row) -> str:
        return f"{row.mean_slowdown}; {tail_name(row.images)} {row.tail_slowdown}"

    return _workloads(results, IN_PROCESS + OURS[1:], "poisson", text, lambda found: True)


def overhead(results: Path) -> str:
    """Latency, rate and CPU time of the service with idle models."""
    lines = []
    for record in load(results, OverheadRecord, "service-overhead"):
        names = ("alone_median_ms", "alone_p99_ms", "together_median_ms", "requests_per_s", "cpu_ms")
        lines += [(proxy, *(str(record.figure(proxy, name)) for name in names)) for proxy in record.starts]
    head = ("proxy", "alone, median ms", "alone, p99 ms", "16 clients, median ms", "requests/s", "CPU ms a request")
    return table(head, lines)


def startup(results: Path) -> str:
    """Seconds until the applications are ready."""
    lines = [
        (
            str(len(record.empty_s)),
            str(spread(record.empty_s)),
            str(spread(record.img2img_s)),
            f"{spread(record.img2img_s).median - spread(record.empty_s).median:.1f}",
        )
        for record in load(results, StartupRecord, "startup")
    ]
    return table(("starts of each", "empty application, s", "both embedded models, s", "later, s"), lines)


def roofline(results: Path) -> str:
    """The engine's seconds per image beside the least that the device allows."""
    lines = [
        (
            f"{record.arch}, {found.size} px, {found.denoise_steps} steps of {found.rows} rows",
            found.dtype,
            f"{found.least_s:.3g}",
            str(found.engine),
            f"{found.engine.median / found.least_s:.2f}",
        )
        for record in load(results, RooflineRecord, "roofline-*")
        for found in record.rooflines
        if found.engine
    ]
    return table(("workload", "dtype", "roofline, s/image", "engine, s/image", "ratio"), lines)


def folder(results: Path) -> str:
    """The bounds of the folder job."""
    lines = [
        (bound.what, f"{bound.kind} {bound.limit:g}", str(bound.measured))
        for record in load(results, FolderRecord, "folder-*")
        for bound in record.bounds
    ]
    return table(("folder job", "bound", "measured"), lines)


def gpu_round(results: Path) -> str:
    """The items of the last round on a GPU."""
    lines = [
        (
            item.name,
            record.machine.gpu or record.machine.cpu,
            "; ".join([*(f"{name} {value}" for name, value in item.texts().items()), item.reason or "done"]),
        )
        for record in load(results, RoundRecord, "gpu-round")
        for item in record.items
    ]
    return table(("item", "card", "median (min..max)"), lines)


def sources(results: Path) -> str:
    """File, commit, date, machine and command of every record."""
    lines = []
    for file in sorted(results.glob("*.json")):
        values = json.loads(file.read_text())
        record = PublishedRecord.model_validate({name: values[name] for name in PublishedRecord.model_fields})
        versions = ", ".join(f"{name} {version}" for name, version in record.machine.versions.items())
        machine = f"{record.machine.gpu or record.machine.cpu}, {record.machine.cores} cores, {versions}"
        link = f"[{file.stem}](../benchmarks/results/{file.name})"
        lines.append(f"- {link}: commit {record.commit}, {record.date[:10]}, {machine}; `{record.command}`")
    return "\n".join(lines) or NO_RECORD


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; NO_RECORD for no lines."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else NO_RECORD


def _rates(results: Path, columns: tuple[Backend, ...], wanted: Callable[[set[Backend]], bool]) -> str:
    return _workloads(results, columns, "closed", lambda row: str(row.images_per_s), wanted)


def _workloads(
    results: Path,
    columns: tuple[Backend, ...],
    mode: Mode,
    text: Callable[[Row], str],
    wanted: Callable[[set[Backend]], bool],
) -> str:
    """A line for each workload of a mode that has the wanted backends, a column for each backend measured in any."""
    lines: list[tuple[str, dict[Backend, str]]] = []
    for record in load(results, Record, "compare-*"):
        for settings, cell_mode in cells(record):
            found = {row.backend: row for row in rows(record, settings, cell_mode)}
            if cell_mode == mode and wanted(set(found)):
                lines.append((_workload(record, settings), {name: text(row) for name, row in found.items()}))
    used = [column for column in columns if any(column in texts for _, texts in lines)]
    return table(("workload", *used), ((name, *(texts.get(column, "") for column in used)) for name, texts in lines))


def _workload(record: Record, settings: str) -> str:
    options = record.options
    device = [] if options.device == "cpu" else [options.device]
    steps = f" of up to {options.max_steps} steps" if settings in ("mixed", "uniform") else ""
    size = f"{options.images} images{steps} x {options.rounds} rounds"
    return ", ".join([Path(options.arch).name, f"{options.size} px", settings, *device, *options.changes]) + f"; {size}"
