"""Measures a checkpoint that paints styles, beside what it has to reach, and draws a sheet of its pictures.

python -m training.evaluate --checkpoint data/models/tiny-sd15 --photos FOLDER --classifier FILE
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine, git_commit
from benchmarks.records import Machine
from deployments.config import REPO_ROOT, Defaults, Strict
from deployments.engine.request import Pixels
from training import measures
from training.classifier import StyleClassifier
from training.contact_sheet import draw_sheet, save_jpeg
from training.measures import Confusion, Finding, Grid
from training.painter import Painter, model_of, open_photo

INPUT_IMAGES = REPO_ROOT / "data" / "input_images"
RESULTS = REPO_ROOT / "benchmarks" / "results" / "training"
LEAST_PHOTOS = 20
SHEET_PHOTOS, SHEET_PX, SHEET_BYTES = 8, 128, 600_000
console = Console(width=max(Console().width, 100))


class Scale(Strict):
    """How much is measured; `photos` None takes all there are."""

    photos: int | None = None
    settings: int = 500


QUICK = Scale(photos=4, settings=40)


class Evaluation(Strict):
    """All that was measured on one checkpoint, and with what. `sha256` is of each of its weight files.

    `edge_correlation` is the mean by strength; the confusions count pictures by prompted, then by recognised style;
    `troubles` are the random settings that went wrong, and how.
    """

    date: str
    commit: str
    machine: Machine
    checkpoint: str
    sha256: dict[str, str]
    defaults: Defaults
    scale: Scale
    photos: int
    seconds: float
    findings: tuple[Finding, ...]
    edge_correlation: dict[float, float]
    confusion: Confusion
    confusion_of_synonyms: Confusion
    troubles: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


def evaluate(
    painter: Painter, photos: Sequence[Pixels], classifier: StyleClassifier, scale: Scale
) -> tuple[Evaluation, Grid]:
    """Ask every question of `measures` about square photos of one size; also the pictures at the defaults."""
    started = time.monotonic()
    photos = photos[: scale.photos]
    findings = measures.autoencoder(painter, photos) + measures.parity(painter, photos)
    console.print(f"{len(photos)} photos in {len(measures.PROMPTS)} styles")
    grid = measures.paint_grid(painter, photos, measures.PROMPTS)
    confusion = measures.confusion(classifier, grid)
    synonyms = measures.paint_grid(painter, photos, measures.SYNONYM_PROMPTS)
    confusion_of_synonyms = measures.confusion(classifier, synonyms)
    findings += measures.recognition(confusion, confusion_of_synonyms)
    console.print("guidance and negative prompts")
    findings += measures.steering(painter, photos, classifier, grid, synonyms)
    console.print(f"strengths {measures.STRENGTHS}")
    kept, edge_correlation = measures.structure(painter, photos)
    console.print(f"{scale.settings} random settings")
    sound, troubles = measures.soundness(painter, photos, scale.settings)
    evaluation = Evaluation(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=git_commit(),
        machine=describe_machine(),
        checkpoint=painter.checkpoint.name,
        sha256=weight_hashes(painter.checkpoint),
        defaults=painter.defaults,
        scale=scale,
        photos=len(photos),
        seconds=round(time.monotonic() - started, 1),
        findings=(*findings, *kept, *sound),
        edge_correlation=edge_correlation,
        confusion=confusion,
        confusion_of_synonyms=confusion_of_synonyms,
        troubles=troubles,
    )
    return evaluation, grid


def weight_hashes(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each weight file of a checkpoint folder, by its path there."""
    hashes = {}
    for file in sorted(checkpoint.rglob("*.safetensors")):
        with file.open("rb") as opened:
            hashes[file.relative_to(checkpoint).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes


def load_photos(folder: Path) -> list[Pixels]:
    """The photos never trained on: those of held_out.npy and the repository's own, 256 px square."""
    own = [open_photo(file) for file in sorted(INPUT_IMAGES.rglob("*.jpg"))]
    photos = [*own, *np.load(folder / "held_out.npy")]
    if len(photos) < LEAST_PHOTOS:
        raise ValueError(
            f"{folder}: {len(photos)} photos with the repository's own; at least {LEAST_PHOTOS} are needed"
        )
    return photos


def draw(photos: Sequence[Pixels], grid: Grid, file: Path) -> None:
    """Some photos, each beside its pictures in all styles."""
    rows = [
        [("source", photo), *((style, pictures[i]) for style, pictures in grid.items())]
        for i, photo in enumerate(photos[:SHEET_PHOTOS])
    ]
    save_jpeg(draw_sheet(rows, SHEET_PX), file, SHEET_BYTES)


def show(evaluation: Evaluation) -> None:
    """Print every finding beside its bound."""
    table = Table("", "measured", "bound", "ok", title=f"{evaluation.checkpoint}, {evaluation.photos} photos")
    for finding in evaluation.findings:
        verdict = "[green]yes" if finding.ok else "[red]no"
        table.add_row(finding.name, f"{finding.measured:.3f}", finding.bound, verdict)
    console.print(table)


def main(
    checkpoint: Annotated[Path, typer.Option(help="A diffusers folder.")],
    photos: Annotated[Path, typer.Option(help="The folder with held_out.npy.")],
    classifier: Annotated[Path, typer.Option(help="What training.classifier wrote.")],
    out: Annotated[Path | None, typer.Option(help="The .json file to write, with the sheet beside it as .jpg.")] = None,
    count: Annotated[int | None, typer.Option(min=LEAST_PHOTOS, help="Photos to use; left out, all.")] = None,
    quick: Annotated[bool, typer.Option(help="A few photos and settings only.")] = False,
) -> None:
    """Measure at the defaults of the model that the folder is named after. Exit code 1 if a bound is missed."""
    try:
        painter, out = Painter(checkpoint), out or RESULTS / f"{model_of(checkpoint)}.json"
        sources = load_photos(photos)
        names_styles = StyleClassifier.load(classifier)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    evaluation, grid = evaluate(painter, sources, names_styles, QUICK if quick else Scale(photos=count))
    show(evaluation)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(evaluation.model_dump_json(indent=1))
    draw(sources[: evaluation.photos], grid, out.with_suffix(".jpg"))
    console.print(f"wrote {out} and its sheet")
    raise typer.Exit(0 if evaluation.ok else 1)


if __name__ == "__main__":
    typer.run(main)
