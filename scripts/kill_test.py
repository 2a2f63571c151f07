"""Kills folder jobs at random moments, runs them again, and holds the result against an undisturbed run's.

    python -m scripts.kill_test --trials 60

Each trial makes 60 small pictures with the embedded checkpoint in reproducible mode, and loses one of: the job's own
process, a model's replica, a worker of Ray Data, or every process of Ray. In the end the pictures must be the
undisturbed run's to the byte, nothing recorded may have been made again, and no unfinished file may be left.
Exit codes: 0 all trials are fine, 1 one is not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil  # type: ignore[import-untyped]
import ray
import typer
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from batch.cluster import find_app
from benchmarks.machine import describe_machine, git_commit
from deployments.config import REPO_ROOT

PICTURES = 60
SIDE = 64
MODEL = "tiny-sd15"
PHOTO = REPO_ROOT / "data" / "input_images" / "astronaut.jpg"
MAX_RUNS = 4  # of one trial; one that still fails has a cause of its own
RUN_TIMEOUT_S = 600
OURS = ("results.jsonl", "results.parquet", "report.html", "contact_sheet.png", "report_files")
GIVE_UP = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5"
}  # not after a minute: a Ray that was killed does not come back
CONSOLE = Console(highlight=False, soft_wrap=True)

# What a process of each kind has in its command line or, once Ray has named it, its title.
VICTIMS = {"replica": f"ServeReplica:img2img:{MODEL}", "worker": "MapWorker", "ray": "ray"}
KINDS = ("driver", *VICTIMS)


@dataclass(frozen=True, slots=True)
class Trial:
    """What was killed, the pictures recorded by then, the runs it took, and what is wrong, "" where nothing is.

    `own_cluster`: the job started Ray itself, so that Ray goes where the job does; else it joined a running app.
    """

    killed: str
    own_cluster: bool
    recorded: int
    runs: int
    wrong: str


@dataclass(frozen=True, slots=True)
class Bench:
    """The scratch folder of all trials, with so many pictures and the configuration; `address`: of the running app."""

    folder: Path
    address: str
    pictures: int = PICTURES

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def start(self, output: Path, *, own_cluster: bool) -> Run:
        """The folder job as a process."""
        command = [sys.executable, "-m", "batch.run_folder", "--config", str(config_of(self.folder))]
        command += ["--input", str(self.photos), "--output", str(output)]
        environment = os.environ | {"RAY_ADDRESS": "local" if own_cluster else self.address, **GIVE_UP}
        with (self.folder / "log.txt").open("ab") as log:
            job = subprocess.Popen(command, cwd=REPO_ROOT, env=environment, stdout=log, stderr=log)
        return Run(job, psutil.Process(job.pid if own_cluster else os.getpid()))


@dataclass(slots=True, eq=False)
class Run:
    """One run of the job; its Ray cluster is what descends from `root`."""

    job: subprocess.Popen[bytes]
    root: psutil.Process

    def strike(self, kind: str, when: Callable[[], bool]) -> bool:
        """Kill, as soon as `when` says so and there is somebody to kill; False if the job ended before."""
        while self.job.poll() is None:
            if when() and (found := list(self._victims(kind))):
                members = self._cluster()
                for process in found if kind == "ray" else found[:1]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                self._wait(members)
                return True
            time.sleep(0.02)
        return False

    def finish(self) -> int:
        """The job's exit code, once no process of it is left."""
        members = self._cluster()
        try:
            self.job.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            members = self._cluster()
            self.job.kill()
        self._wait(members)
        return self.job.wait()

    def _wait(self, members: Sequence[psutil.Process]) -> None:
        """Until the dead job's workers, and its cluster if it is its own, are gone."""
        while self.job.poll() is not None and (left := list(self._victims("worker"))):
            psutil.wait_procs(left, 1)
        if self.job.poll() is not None and self.root.pid == self.job.pid:
            psutil.wait_procs(members, 30)

    def _cluster(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(self.root.children(recursive=True))
        return []

    def _victims(self, kind: str) -> Iterator[psutil.Process]:
        if kind == "driver":
            yield psutil.Process(self.job.pid)
            return
        for process in self._cluster():
            with suppress(psutil.Error):
                if VICTIMS[kind] in " ".join(process.cmdline()):
                    yield process


def config_of(folder: Path) -> Path:
    return folder / "serve.yaml"


@contextmanager
def benches(pictures: int = PICTURES) -> Iterator[Bench]:
    """The pictures, all different, and an app in a Ray cluster of this process's own; all gone at the end."""
    with tempfile.TemporaryDirectory(prefix="kill-test-") as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        with Image.open(PHOTO) as opened:
            photo = opened.convert("RGB").resize((4 * SIDE, 4 * SIDE))
        for number in range(pictures):
            left, top = 3 * number, 2 * number
            photo.crop((left, top, left + SIDE, top + SIDE)).save(folder / "photos" / f"{number:02}.png")
        model = {
            "checkpoint": str(REPO_ROOT / "data" / "models" / MODEL),
            "reproducible": True,
            "defaults": {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 2, "max_side": SIDE},
        }
        served = {"name": "img2img", "import_path": "deployments.app:build_app", "args": {"models": {MODEL: model}}}
        config_of(folder).write_text(yaml.safe_dump({"applications": [served]}))
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        with ray.init("local", **quiet) as cluster, find_app(config_of(folder), "img2img", CONSOLE.print) as app:
            app.router  # noqa: B018  starts it
            yield Bench(folder, cluster.address_info["gcs_address"], pictures)


def undisturbed(bench: Bench) -> dict[str, bytes]:
    """The pictures of a run in which nothing dies."""
    output = bench.folder / "undisturbed"
    if bench.start(output, own_cluster=False).finish() != 0:
        raise RuntimeError((bench.folder / "log.txt").read_text())
    return pictures(output)


def pictures(output: Path) -> dict[str, bytes]:
    """Every file of an output folder, hidden ones too, short of the record and the report."""
    names = {path.relative_to(output): path for path in output.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in names.items() if name.parts[0] not in OURS}


def recorded(output: Path) -> dict[str, str]:
    """When each finished picture that has a whole line in the record was made."""
    with suppress(FileNotFoundError):
        lines = (output / "results.jsonl").read_bytes().split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines]
        return {row["output"]: row["finished_at"] for row in rows if row["error_type"] is None}
    return {}


def run_trial(bench: Bench, number: int, expected: dict[str, bytes]) -> Trial:
    """Start the job, kill what the number says, and run it again until it is done.

    The moment is drawn by pictures done, not by time: all of the job is tried alike, however fast the machine is.
    """
    rng = random.Random(f"kill {number}")
    kind = KINDS[number % len(KINDS)]
    own_cluster = kind == "ray" or (kind == "driver" and number % (4 * len(KINDS)) == len(KINDS))
    count, delay_s = rng.randrange(bench.pictures), rng.uniform(0, 0.5)
    output = bench.folder / f"out{number}"
    ripe: list[float] = []

    def when() -> bool:
        if not ripe and len(recorded(output)) >= count:
            ripe.append(time.monotonic() + delay_s)
        return bool(ripe) and time.monotonic() >= ripe[0]

    run = bench.start(output, own_cluster=own_cluster)
    struck = run.strike(kind, when)
    before = recorded(output)
    runs, code = 1, run.finish()
    while code != 0 and runs < MAX_RUNS:
        runs, code = runs + 1, bench.start(output, own_cluster=own_cluster).finish()
    wrong = fault(output, code, before, expected) if struck else "the job ended before it could be killed"
    return Trial(kind, own_cluster, len(before), runs, wrong)


def fault(output: Path, code: int, before: dict[str, str], expected: dict[str, bytes]) -> str:
    """What is wrong with a finished trial, in words."""
    if code != 0:
        return f"the job still ended with exit code {code}"
    made, after = pictures(output), recorded(output)
    if set(made) != set(expected):
        return f"other files: {sorted(set(made) ^ set(expected))[:3]}"
    different = [name for name, data in made.items() if data != expected[name]]
    if different:
        return f"{len(different)} pictures differ, such as {different[0]}"
    again = [name for name, when in before.items() if after.get(name) != when]
    return f"{len(again)} recorded pictures were made again" if again else ""


def main(
    trials: Annotated[int, typer.Option(min=1)] = 60,
    first: Annotated[int, typer.Option(min=0, help="The first trial's number, where several run side by side.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A .json file for the results.")] = None,
) -> None:
    """Run the trials and print what became of each."""
    results: list[Trial] = []
    with benches() as bench:
        expected = undisturbed(bench)
        for number in range(first, first + trials):
            results.append(it := run_trial(bench, number, expected))
            where = "its own cluster" if it.own_cluster else "a running app"
            told = f"{it.killed} killed after {it.recorded} pictures, in {where}"
            CONSOLE.print(f"{number}: {told}: {it.runs} runs, {it.wrong or 'fine'}")
            if out is not None:
                write_results(results, out)
    CONSOLE.print(table_of(results))
    raise typer.Exit(int(any(result.wrong for result in results)))


def write_results(results: Sequence[Trial], out: Path) -> None:
    """Write the trials with when, where and on which commit they ran."""
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git_commit()}
    machine, trials = describe_machine().model_dump(), [asdict(result) for result in results]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "machine": machine, "trials": trials}, indent=1))


def table_of(results: Sequence[Trial]) -> Table:
    """How many trials of each kind went well, and in how many runs."""
    table = Table("killed", "trials", "fine", "runs it took: trials")
    for kind in KINDS:
        members = [result for result in results if result.killed == kind]
        runs = ", ".join(f"{n}: {count}" for n, count in sorted(Counter(it.runs for it in members).items()))
        table.add_row(kind, str(len(members)), str(sum(not result.wrong for result in members)), runs)
    return table


if __name__ == "__main__":
    typer.run(main)
