"""The folder job through a real Serve app: every image gets its result or its error, and nothing stops the job.

All of it runs on local folders, where an image kills its worker, and again with input and output on an S3 server that
fails one request in twenty.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from typer.testing import Result

from deployments.images.metadata import read_parameters
from tests.support.folders import REPORTS, Folder, NewFolder, assert_refused, on_this_machine, run_folder
from tests.support.images import exif, file_of, gradient, stored_turned
from tests.support.stand_in import asking

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]

SUFFIXES = {"jpeg": ".jpg", "tiff": ".TIF", "png": ".png", "webp": ".webp", "gif": ".gif", "bmp": ".bmp"}
BAD = {
    "text.jpg": b"this is no image",
    "empty.png": b"",
    "cut.jpg": file_of(gradient(400, 300), "jpeg")[:2000],
    "thin.png": file_of(gradient(600, 2), "png"),
}
KILLS_ITS_WORKER = "kill the caller.png"
FAILING = {*BAD, "refuse.png", KILLS_ITS_WORKER}
IGNORED = ("notes.txt", "clip.mp4", "results.jsonl")


@pytest.fixture(scope="module")
def sources(new_folder: NewFolder) -> Folder:
    """Good images of every format, some in sub-folders, misbehaving ones, bad files, and files of other kinds."""
    folder = new_folder("in")
    for sub in ("", "trips/", "trips/2024/"):
        for format, suffix in SUFFIXES.items():
            folder.write(f"{sub}photo{suffix}", file_of(gradient(), format))
    folder.write("large.png", gradient(1000, 667))
    folder.write("rotated.jpg", file_of(stored_turned(gradient(), 6), "jpeg", exif=exif(6)))
    see_through = Image.fromarray(gradient()).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    folder.write("see-through.png", file_of(see_through, "png"))
    folder.write("refuse.png", asking("refuse"))
    if folder.storage.local is not None:
        folder.write(KILLS_ITS_WORKER, asking("kill the caller"))
    for name, data in BAD.items():
        folder.write(name, data)
    for name in (*IGNORED, ".hidden.png"):
        folder.write(name, b"not for us")
    return folder


@pytest.fixture(scope="module")
def job(sources: Folder, new_folder: NewFolder) -> tuple[Result, Folder]:
    output = new_folder("out")
    return run_folder(sources, output, "--strength", 0.65), output


def test_job_with_failures_finishes_lists_them_and_exits_1(job: tuple[Result, Folder], sources: Folder):
    result, _ = job
    assert result.exit_code == 1, result.output
    listed = {line.split(": ")[1] for line in result.output.splitlines() if line.startswith("failed: ")}
    assert listed == FAILING & set(sources.names())
    assert f"{len(IGNORED)} other files ignored" in result.output


def test_job_never_shows_the_secrets_of_its_uris(job: tuple[Result, Folder]):
    result, output = job
    assert "testing" not in result.output
    assert "testing" not in output.read("report.html").decode()


def test_every_image_has_one_line_in_the_results_table(job: tuple[Result, Folder], sources: Folder):
    rows = job[1].rows()
    assert set(rows) == set(sources.names()) - set(IGNORED)
    assert {source for source, row in rows.items() if row["error_type"]} == FAILING & set(rows)


def test_parquet_table_says_the_same_as_the_lines(job: tuple[Result, Folder]):
    table = parquet.read_table(BytesIO(job[1].read("results.parquet"))).to_pylist()
    assert {row["source"]: row for row in table} == job[1].rows()


def test_output_folder_holds_the_results_their_record_and_nothing_else(job: tuple[Result, Folder]):
    outputs = {row["output"] for row in job[1].rows().values() if row["error_type"] is None}
    assert set(job[1].results()) == outputs
    for name in REPORTS:
        assert any(found.startswith(name) for found in job[1].names()), name
    if (folder := job[1].storage.local) is not None:
        assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_results_keep_sub_folder_extension_and_size_of_their_sources(job: tuple[Result, Folder], sources: Folder):
    for source, row in job[1].rows().items():
        if row["error_type"] is None:
            written = Path(row["output"])
            assert (written.parent, written.suffix) == (Path(source).parent, Path(source).suffix)
            height, width = sources.pixels(source).shape[:2]
            assert job[1].pixels(row["output"]).shape[:2] == (height, width) == (row["height"], row["width"])
            assert (row["source_height"], row["source_width"]) == (height, width)
            assert row["output_bytes"] == len(job[1].read(row["output"]))


@pytest.mark.parametrize("folder", ["", "trips/", "trips/2024/"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF"])
def test_result_is_what_the_model_made_of_the_source(job: tuple[Result, Folder], folder: str, suffix: str):
    row = job[1].rows()[f"{folder}photo{suffix}"]
    np.testing.assert_array_equal(job[1].pixels(row["output"]), 255 - gradient())


def test_exif_rotated_photo_comes_out_upright(job: tuple[Result, Folder]):
    pixels = job[1].pixels(job[1].rows()["rotated.jpg"]["output"])
    assert np.abs(pixels.astype(int) - (255 - gradient())).mean() < 8


def test_transparency_of_the_source_is_kept(job: tuple[Result, Folder], sources: Folder):
    result = job[1].read(job[1].rows()["see-through.png"]["output"])
    before, after = (Image.open(BytesIO(data)).getchannel("A") for data in (sources.read("see-through.png"), result))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_result_carries_the_settings_of_its_row(job: tuple[Result, Folder]):
    row = job[1].rows()["large.png"]
    text = read_parameters(job[1].read(row["output"]))
    assert text is not None
    assert f"Seed: {row['seed']}, Size: 512x342, Model: {row['model']}, Denoising strength: 0.65" in text
    assert row["prompt"] in text
    assert (row["num_denoise_steps"], row["queued_s"], row["denoise_s"]) == (6, 0.25, 0.5)
    assert row["total_s"] > 0


@pytest.mark.parametrize(
    ("source", "error_type", "error"),
    [
        ("text.jpg", "NotAnImage", "not an image"),
        ("empty.png", "NotAnImage", "empty"),
        ("cut.jpg", "NotAnImage", "damaged"),
        ("thin.png", "UnusableImage", "at least 16 pixels"),
        ("refuse.png", "InvalidRequest", "sampler must be euler"),
    ],
)
def test_failed_image_says_why_in_its_row(job: tuple[Result, Folder], source: str, error_type: str, error: str):
    row = job[1].rows()[source]
    assert row["error_type"] == error_type
    assert error in row["error"]


@on_this_machine
def test_image_that_kills_its_worker_fails_alone(job: tuple[Result, Folder]):
    row = job[1].rows()[KILLS_ITS_WORKER]
    assert row["error_type"] == "WorkerDied"
    assert "died" in row["error"]


@on_this_machine
def test_options_hold_for_every_image_and_several_values_make_every_combination(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    for name in ("a.bmp", "b.gif", "sub/c.png"):
        source.write(name, gradient())
    options = ["--prompt", "a fox", "--model", "someone/red,blue", "--seed", 5, "--guidance-scale", 7.5]
    assert run_folder(source, output, *options, "--output-format", "png", "--no-recursive").exit_code == 0
    names = sorted(output.results())
    assert [name.rsplit("_", 1)[0] for name in names] == [
        f"{stem}_a_fox_str0.3_guide7.5_steps20_seed5_{model}" for stem in ("a", "b") for model in ("blue", "red")
    ]
    assert {name[-4:] for name in names} == {".png"}


@on_this_machine
def test_table_gives_each_image_its_settings_mask_and_name(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    source.write("a.png", gradient())
    source.write("b.png", gradient())
    mask = np.zeros_like(gradient())
    mask[:, : mask.shape[1] // 2] = 255
    source.write("masks/left.png", mask)
    source.write("jobs.csv", b"image,prompt,mask,output\na.png,a fox,masks/left.png,foxes/one.png\nb.png,,,two.png\n")
    assert run_folder(Folder(f"{source.uri}/jobs.csv"), output).exit_code == 0
    assert set(output.results()) == {"foxes/one.png", "two.png"}
    assert output.rows()["a.png"]["prompt"] == "a fox"
    pixels, half = output.pixels("foxes/one.png"), mask.shape[1] // 2
    feathered = half - 16
    np.testing.assert_array_equal(pixels[:, :feathered], 255 - gradient()[:, :feathered])
    np.testing.assert_array_equal(pixels[:, half:], gradient()[:, half:])


@on_this_machine
def test_unknown_model_is_bad_usage(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    source.write("a.png", gradient())
    assert_refused(run_folder(source, output, "--model", "green"), "--model", "red, blue")
    with pytest.raises(FileNotFoundError):
        output.names()


def test_names_and_links_that_lead_nowhere_fail_alone(tmp_path: Path):
    """Only a file system of this machine has such."""
    source, output = Folder(str(tmp_path / "in")), Folder(str(tmp_path / "out"))
    source.write("a.png", gradient())
    (tmp_path / "in" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with open(os.fsencode(tmp_path / "in") + b"/latin-\xe9.jpg", "wb") as file:
        file.write(file_of(gradient(), "jpeg"))
    result = run_folder(source, output)
    assert result.exit_code == 1
    assert "'gone.jpg': No such file" in result.output
    assert {source: row["error_type"] for source, row in output.rows().items()} == {
        "a.png": None,
        "latin-\\udce9.jpg": "BadFileName",
    }
