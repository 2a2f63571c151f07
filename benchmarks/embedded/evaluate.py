"""Measures a checkpoint that paints styles against its bounds, and draws a sheet of its images.

python -m benchmarks.embedded.evaluate --checkpoint data/models/tiny-sd15 --photos FOLDER --classifier FILE
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from benchmarks.embedded import measures
from benchmarks.embedded.contact_sheet import draw_sheet, save_jpeg
from benchmarks.embedded.measures import Confusion, Finding, Grid
from benchmarks.embedded.painter import Painter, model_of, open_photo
from benchmarks.publishing import RESULTS, PublishedRecord, Scratch, console, provenance, write_record
from deployments.config import REPO_ROOT, Defaults, Strict
from deployments.engine.request import Pixels
from training.classifier import StyleClassifier

INPUT_IMAGES = REPO_ROOT / "data" / "input_images"
LEAST_PHOTOS = 20
SHEET_PHOTOS, SHEET_PX, SHEET_BYTES = 8, 128, 600_000


class Scale(Strict):
    """How much is measured; `photos` None takes all there are."""

    photos: int | None = None
    settings: int = 500


QUICK = Scale(photos=4, settings=40)


class Evaluation(PublishedRecord):
    """All measurements of one checkpoint. `sha256` is of each of its weight files.

    `edge_correlation` is the mean by strength. The confusions count images by prompted, then by recognised style.
    `troubles` are the random settings that went wrong, and how.
    """

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
    painter: Painter, photos: Sequence[Pixels], classifier: StyleClassifier, scale: Scale, facts: dict[str, Any]
) -> tuple[Evaluation, Grid]:
    """All findings of `measures` on square photos of one size, and the images at the defaults.

    `facts` are the record's `provenance`.
    """
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
        **facts,
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
    """Some photos, each beside its images in all styles."""
    rows = [
        [("source", photo), *((style, images[i]) for style, images in grid.items())]
        for i, photo in enumerate(photos[:SHEET_PHOTOS])
    ]
    save_jpeg(draw_sheet(rows, SHEET_PX), file, SHEET_BYTES)


def show(evaluation: Evaluation) -> None:
    """Print every finding beside its bound."""
    table = Table("", "measured", "bound", "ok", title=f"{evaluation.checkpoint}, {evaluation.photos} photos")
    for finding in evaluation.findings:
        ok = "[green]yes" if finding.ok else "[red]no"
        table.add_row(finding.name, f"{finding.measured:.3f}", finding.bound, ok)
    console.print(table)


def main(
    checkpoint: Annotated[Path, typer.Option(help="A diffusers folder.")],
    photos: Annotated[Path, typer.Option(help="The folder with held_out.npy.")],
    classifier: Annotated[Path, typer.Option(help="The file that training.classifier wrote.")],
    out: Annotated[Path | None, typer.Option(help="The .json file to write, with the sheet beside it as .jpg.")] = None,
    count: Annotated[int | None, typer.Option(min=LEAST_PHOTOS, help="Photos to use; default: all.")] = None,
    quick: Annotated[bool, typer.Option(help="A few photos and settings only.")] = False,
    scratch: Scratch = False,
) -> None:
    """Measure at the defaults of the model that the folder is named after. Exit code 1 if a bound is missed."""
    try:
        out = out or RESULTS / f"embedded-{model_of(checkpoint)}.json"
        painter = Painter(checkpoint)
        sources = load_photos(photos)
        names_styles = StyleClassifier.load(classifier)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    command = shlex.join(["python", "-m", "benchmarks.embedded.evaluate", *sys.argv[1:]])
    facts = provenance(command, out.parent, scratch=scratch)
    evaluation, grid = evaluate(painter, sources, names_styles, QUICK if quick else Scale(photos=count), facts)
    show(evaluation)
    sample = {"rounds": None, "images": evaluation.photos}  # another round would make the same images
    if write_record(evaluation, out.stem, out.parent, scratch=scratch, **sample):
        draw(sources[: evaluation.photos], grid, out.with_suffix(".jpg"))
    raise typer.Exit(0 if evaluation.ok else 1)


if __name__ == "__main__":
    typer.run(main)
